#!/bin/sh
# spkv compare from outside, on the demo model and its twin: matched read fractions, rows that spkv profile finds too, killed
# runs that go on, what is refused.
#   SPKV=build/spkv MODEL=datasets/demo/model tests/compare.sh
export OMP_WAIT_POLICY=passive # runs are short, and other work may go on beside them
spkv=${SPKV:-build/spkv} model=${MODEL:-datasets/demo/model}
twin=$model/../twin
. tests/outside

tasks() { "$spkv" tasks recall --kind "$1" --seed "$2" --items 4 --fillers 6 -n "$3" -o "$dir/$1.jsonl"; }
tasks pairs 5 10
tasks series 6 5
compare() { "$spkv" compare "$model" --twin "$twin" --threads 1 --quiet --resamples 100 --window 16 "$@"; }
# cell CSV WEIGHTS SPEC WANTED FIELD: of the row whose specification begins so and whose wanted read fraction this is.
cell() {
    awk -F, -v weights="$2" -v spec="$3" -v wanted="$4" -v field="$5" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["weights"] == weights && index($at["spec"], spec) == 1 && $at["read_fraction_wanted"] == wanted {
            print $at[field]; exit }' "$1"
}
near() { # near FOUND EXPECTED RELATIVE WHAT; EXPECTED may be a formula
    awk "BEGIN { a = $1 + 0; b = $2; d = a - b; exit !(\"$1\" != \"\" && d * d <= ($3 * b) ^ 2) }" ||
        fail "$4: $1 is not $2"
}

# Two corpora; SP-KV's own read fraction and another. Documents 0, 5, 10, ... are calibrated on, the others measured.
expect 0 "series.jsonl" compare "$dir/pairs.jsonl" "$dir/series.jsonl" -o "$dir/one" --match spkv --at 0.9
table=$dir/one/compare.csv
own=$(awk -F, '$4 == "as given" { print $6 }' "$table")
[ "$(wc -l <"$table")" -eq 10 ] || fail "other rows than full, window, SP-KV's full, SP-KV, 2 at what it reads, 3 at 0.9"
for row in "twin random:density= $own" "twin window:window= $own" "twin random:density= 0.9" "twin window:window= 0.9" \
    "spkv spkv:threshold= 0.9"; do
    set -- $row
    near "$(cell "$table" "$1" "$2" "$3" calibration_read_fraction)" \
        "$(cell "$table" "$1" "$2" "$3" calibration_read_fraction_wanted)" 0.01 "$2 at $3, on the text of the calibration"
    reached=$(cell "$table" "$1" "$2" "$3" read_fraction)
    within=$(awk "BEGIN { d = $reached / $3 - 1; print (d * d <= 1e-4 ? \"true\" : \"false\") }")
    [ "$(cell "$table" "$1" "$2" "$3" matched)" = "$within" ] || fail "$2 at $3 reads $reached: \"matched\" is wrong"
done
for spec in random:density= window:window=; do
    [ "$(cell "$table" twin $spec "$own" matched)" = true ] || fail "$spec is not matched to SP-KV"
done
grep -q '"documents": "other documents"' "$dir/one/compare.json" || fail "compare.json does not say what was calibrated on"

# The same rows by spkv profile, over the measured documents alone, from raw counters. Every prediction stands beyond twice
# the window, so that the gap is one of whole losses.
awk '(NR - 1) % 5' "$dir/pairs.jsonl" >"$dir/rest.jsonl"
awk '(NR - 1) % 5' "$dir/series.jsonl" >>"$dir/rest.jsonl" # after 10 documents
full=$(cell "$table" twin full "" nll_nat_per_token)
window=$(cell "$table" twin window "" nll_nat_per_token)
number() { sed -n "s/^  \"$1\": \([-0-9.e+]*\),*\$/\1/p" "$dir/show.json" | head -n 1; }
again() { # again WEIGHTS SPEC WANTED MODEL SINKS
    expect 0 "" "$spkv" profile "$4" "$dir/rest.jsonl" -o "$dir/again.h5" --force --quiet --threads 1 --window 16 \
        --sinks "$5" --policy "$(cell "$table" "$1" "$2" "$3" spec)"
    "$spkv" show "$dir/again.h5" --json >"$dir/show.json"
    at() { cell "$table" "$1" "$2" "$3" "$4"; }
    nll=$(number nll_nat_per_token)
    near "$(at "$1" "$2" "$3" nll_nat_per_token)" "$nll" 1e-9 "loss of $2"
    near "$(at "$1" "$2" "$3" nll_change)" "$nll / $full - 1" 1e-9 "change of $2"
    near "$(at "$1" "$2" "$3" gap_recovered)" "($window - $nll) / ($window - $full)" 1e-6 "gap recovered of $2"
    near "$(at "$1" "$2" "$3" read_fraction)" "$(number visible_pairs) / $(number causal_pairs)" 1e-12 "read fraction of $2"
    near "$(at "$1" "$2" "$3" long_range_density)" "$(number n_kept) / $(number n_left_window)" 1e-12 "density of $2"
    near "$(at "$1" "$2" "$3" kv_bytes_used)" "$(number cache_used_bytes) / $(number n_sequences)" 1e-12 "bytes of $2"
    near "$(at "$1" "$2" "$3" kv_bytes_peak)" "$(number pool_peak_bytes)" 1e-12 "peak bytes of $2"
}
again twin window "" "$twin" 4
again twin random:density= 0.9 "$twin" 4
again spkv full "" "$model" 0
again spkv spkv:threshold= 0.9 "$model" 0

# Killed and gone on with: the same table, as far as it is not about when and how it ran.
numbers() { cut -d, -f 1-30 "$1"; }
for s in 0.2 0.4 0.8; do
    "$spkv" compare "$model" "$dir/pairs.jsonl" "$dir/series.jsonl" --twin "$twin" --threads 1 --quiet --resamples 100 \
        --window 16 -o "$dir/killed" --match spkv --at 0.9 --resume >"$dir/out.txt" 2>&1 &
    pid=$!
    sleep $s
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
done
expect 3 "--resume goes on" compare "$dir/pairs.jsonl" "$dir/series.jsonl" -o "$dir/killed" --match spkv --at 0.9
expect 0 "" compare "$dir/pairs.jsonl" "$dir/series.jsonl" -o "$dir/killed" --match spkv --at 0.9 --resume --json
grep -q '"schema": "spkv-compare"' "$dir/out" || fail "no JSON with --json"
numbers "$table" >"$dir/a"
numbers "$dir/killed/compare.csv" >"$dir/b"
cmp "$dir/a" "$dir/b" || fail "a resumed comparison gives another table"
cmp "$dir/one/calibration.csv" "$dir/killed/calibration.csv" || fail "a resumed calibration takes other steps"
expect 3 "chunk" compare "$dir/pairs.jsonl" "$dir/series.jsonl" -o "$dir/killed" --match spkv --at 0.9 --resume --chunk 64

# A dense model alone; text for the calibration that is measured too; a single document.
alone() { "$spkv" compare "$twin" --threads 1 --resamples 100 --window 16 "$@"; }
expect 0 "files of --calibrate are measured too" alone "$dir/series.jsonl" -o "$dir/dense" \
    --match read-fraction=0.9 --calibrate "$dir/series.jsonl"
grep -q '"measured_too": true' "$dir/dense/compare.json" || fail "compare.json does not say that the text was measured too"
grep -q ',dense,calibrated,0.9,' "$dir/dense/compare.csv" || fail "policies did not run on the dense model"
head -n 1 "$dir/series.jsonl" >"$dir/single.jsonl"
expect 0 "only one document" alone "$dir/single.jsonl" -o "$dir/single" --match read-fraction=0.9 --quiet

# What is wrong is refused before anything is measured.
small() { compare "$dir/series.jsonl" -o "$dir/x" "$@"; }
expect 2 "is not a policy" small --policies window,sparse
expect 2 "named twice" small --policies random,window,random
expect 2 "no parameter \"colour\"" small --policies window,random:seed=3,colour=2,spkv
expect 2 "is not a number" small --policies random:density=two
expect 2 "cannot be reached: the window of 16 and 4 sinks alone read 0." small --at 0.9,0.3
expect 2 "above 0" small --at 0
expect 2 "neither" small --match bytes=3
expect 2 "-o DIR" compare "$dir/series.jsonl"
expect 2 "has no predictor" alone "$dir/series.jsonl" -o "$dir/x"
expect 2 "has no predictor" alone "$dir/series.jsonl" -o "$dir/x" --match spkv
expect 2 "dense itself" alone "$dir/series.jsonl" -o "$dir/x" --twin "$twin" --at 0.9
expect 3 "utility predictor" alone "$dir/series.jsonl" -o "$dir/x" --at 0.9 --policies spkv
mkdir "$dir/other"
cp "$twin"/* "$dir/other"
echo >>"$dir/other/tokenizer.json"
expect 3 "tokenizer.json" "$spkv" compare "$model" "$dir/series.jsonl" --twin "$dir/other" -o "$dir/x"

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
