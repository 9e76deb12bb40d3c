#!/bin/sh
# spkv verify and recommend --refine from outside, on a model that is trained for a second: the ends of the scale, figures in
# the layouts, killed runs that go on, healing, what is refused.
#   SPKV=build/spkv MODEL=datasets/demo/model tests/verify.sh
export OMP_WAIT_POLICY=passive # runs are short, and other work may go on beside them
spkv=${SPKV:-build/spkv} demo=${MODEL:-datasets/demo/model}
. tests/outside

small_model "$demo/tokenizer.json"
head -c 12000 docs/method.md >"$dir/text.txt"
mkdir "$dir/held"
split -n l/8 --additional-suffix=.txt README.md "$dir/held/"
small="--steps 8 --sequences 4 --context-len 64 --window 8 --learning-rate 0.02 --soft-frac 0.5 --start-bias 0.5 --threads 1"
expect 0 "" "$spkv" train pretrain "$dir/config.json" "$dir/text.txt" $small --density-weight 0.3 --quiet -o "$dir/run"
model=$dir/run/checkpoint
expect 0 "" "$spkv" profile "$model" "$dir/text.txt" --max-length 64 --quiet -o "$dir/choice.h5" --policy full --window 8 \
    --record attention
expect 0 "" "$spkv" recommend "$dir/choice.h5" --heads 2 --sinks 4 -o "$dir/densest.json"
sed 's/"global"/"local"/g' "$dir/densest.json" >"$dir/none.json"
sed 's/"local"/"global"/g' "$dir/densest.json" >"$dir/all.json"
verify() { "$spkv" verify "$model" "$dir/held" --max-length 64 --threads 1 --quiet --resamples 200 "$@"; }
# cell CSV COLUMN NAME FIELD: a field of a row.
cell() {
    awk -F, -v column="$2" -v name="$3" -v field="$4" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        $1 == column && $2 == name { print $at[field] }' "$1"
}
equals() { [ "$1" = "$2" ] || fail "$3: $1 is not $2"; }

# One go: the ends of the scale are exact, figures lie in the layouts, heads are what they were.
cp "$dir/densest.json" "$dir/before.json"
expect 0 "gap" verify "$dir/densest.json" "$dir/none.json" "$dir/all.json" -o "$dir/one" --csv "$dir/table.csv" --decode 40 \
    --policy random:density=0.5,window=8 --against none
table=$dir/table.csv
equals "$(cell "$table" zero_shot all nll_change)" 0 "loss with all heads global, against full attention"
equals "$(cell "$table" zero_shot all gap_recovered)" 1 "gap with all heads global"
equals "$(cell "$table" zero_shot all read_fraction)" 1 "read fraction of full attention"
equals "$(cell "$table" zero_shot window against_change)" 0 "loss of the window against no global head"
for field in nll_nat_per_token nll_change_low gap_recovered read_fraction kv_bytes_used; do
    equals "$(cell "$table" zero_shot none $field)" "$(cell "$table" zero_shot window $field)" "$field without a global head"
done
equals "$(cell "$table" zero_shot window gap_recovered)" 0 "gap of the window alone"
equals "$(wc -l <"$table")" 8 "lines of the table"
grep -q '"zero_shot": {"nll_nat_per_token"' "$dir/densest.json" || fail "no figures in the layout"
grep -q '"healed": {}' "$dir/densest.json" || fail "healed figures without healing"
sed 's/"measured".*//' "$dir/before.json" >"$dir/a"
sed 's/"measured".*//' "$dir/densest.json" >"$dir/b"
cmp "$dir/a" "$dir/b" || fail "more than the figures changed in the layout"
expect 0 "" "$spkv" profile "$model" "$dir/held" --max-length 64 --quiet -o "$dir/again.h5" \
    --policy "layout:file=$dir/densest.json"
expect 3 "exists" verify "$dir/densest.json" -o "$dir/one"
expect 0 '"schema": "spkv-verify"' verify "$dir/densest.json" -o "$dir/json" --json --keep-layouts

# Text that a layout was chosen on.
expect 0 "was chosen on files of this text" "$spkv" verify "$model" "$dir/text.txt" --max-length 64 --quiet -o "$dir/same" \
    --keep-layouts "$dir/densest.json"
expect 0 "fewer than 20" "$spkv" verify "$model" "$dir/held" --max-length 64 -o "$dir/few" --keep-layouts

# Killed and gone on with: the same table. The trainings too.
heal="--heal-tokens 1024 --heal-corpus $dir/text.txt --heal-set context-len=64 --heal-set sequences=4"
heal="$heal --heal-set learning-rate=0.01"
numbers() { cut -d, -f 1-19 "$1" | sed 's/,[^,]*,[^,]*$//'; }
expect 0 "Rank correlation" verify "$dir/densest.json" "$dir/none.json" $heal -o "$dir/whole" --csv "$dir/whole.csv"
equals "$(cell "$dir/whole.csv" healed full gap_recovered)" 1 "gap of the twin"
before=$(cell "$table" zero_shot densest nll_nat_per_token)
equals "$(cell "$dir/whole.csv" zero_shot densest nll_nat_per_token)" "$before" "loss of the same run again"
[ "$(cell "$dir/whole.csv" healed densest nll_nat_per_token)" != "$before" ] || fail "healing changed nothing"
equals "$(cell "$dir/whole.csv" healed none nll_nat_per_token)" "$(cell "$dir/whole.csv" healed window nll_nat_per_token)" \
    "healed loss of the window, as a policy and as a layout"
grep -q '"healed": {"nll_nat_per_token"' "$dir/densest.json" || fail "no healed figures in the layout"
[ -e "$dir/whole/training/full/checkpoint" ] && fail "a healed model is kept without --keep-models"
resume="--resume"
for ms in 0.1 0.4 0.7; do
    "$spkv" verify "$model" "$dir/held" --max-length 64 --threads 1 --quiet --resamples 200 "$dir/densest.json" \
        "$dir/none.json" $heal -o "$dir/killed" --csv "$dir/killed.csv" $resume >"$dir/out.txt" 2>&1 &
    pid=$!
    sleep $ms
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
done
expect 0 "" verify "$dir/densest.json" "$dir/none.json" $heal -o "$dir/killed" --csv "$dir/killed.csv" --resume
numbers "$dir/whole.csv" >"$dir/a"
numbers "$dir/killed.csv" >"$dir/b"
cmp "$dir/a" "$dir/b" || fail "a resumed run gives another table"
expect 3 '"learning_rate" is another' verify "$dir/densest.json" "$dir/none.json" $heal --heal-set learning-rate=0.02 \
    -o "$dir/killed" --resume

# What is wrong is refused before anything runs.
expect 2 "-o DIR" "$spkv" verify "$model" "$dir/held"
expect 2 "--heal-corpus" verify -o "$dir/x" --heal-tokens 100
expect 2 "need --heal-tokens" verify -o "$dir/x" --keep-models
expect 2 "not KEY=VALUE" verify -o "$dir/x" --heal-set fast
expect 2 "is not a policy" verify -o "$dir/x" --policy sparse
expect 2 "no case" verify -o "$dir/x" --against densest
expect 2 "two cases" verify "$dir/densest.json" "$dir/densest.json" -o "$dir/x"
sed 's/"n_kv_heads": 2/"n_kv_heads": 1/; s/\[\(.*\), .*\]/[\1]/' "$dir/before.json" >"$dir/other.json"
expect 3 "other.json" verify "$dir/other.json" -o "$dir/x"
expect 3 "broken.json" sh -c "echo '{' >$dir/broken.json; exec $spkv verify $model $dir/held $dir/broken.json -o $dir/x"

# Refinement: never worse on what it searches, the same budget, and a stopped search ends as an undisturbed one.
refine() { "$spkv" recommend "$dir/choice.h5" --heads 2 --strategy random --refine "$model" --refine-text "$dir/held" \
    --refine-length 64 "$@"; }
expect 0 "held out" refine -o "$dir/refined.json" --refine-log "$dir/log.csv"
equals "$(grep -o '"global"' "$dir/refined.json" | wc -l)" 2 "global heads of a refined layout"
head -n 4 "$dir/log.csv" >"$dir/half.csv"
printf 'swap,0.0,1' >>"$dir/half.csv" # cut short by a kill
expect 0 "refined:" refine -o "$dir/again.json" --refine-log "$dir/half.csv"
cmp "$dir/refined.json" "$dir/again.json" || fail "a search that goes on ends elsewhere"
cut -d, -f 1-6 "$dir/log.csv" >"$dir/a"
cut -d, -f 1-6 "$dir/half.csv" >"$dir/b"
cmp "$dir/a" "$dir/b" || fail "a search that goes on measures other layouts"
awk -F, 'NR == 2 { start = $5 } { last = $6 } END { exit !(last <= start) }' "$dir/log.csv" || fail "refined to the worse"
expect 3 "another layout" "$spkv" recommend "$dir/choice.h5" --heads 1 --refine "$model" --refine-text "$dir/held" \
    --refine-length 64 --refine-log "$dir/log.csv"
expect 3 "text.txt" refine --refine-log "$dir/text.txt"
expect 2 "go together" "$spkv" recommend "$dir/choice.h5" --refine "$model"

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
