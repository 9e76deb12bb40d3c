#!/bin/sh
# spkv recommend from outside: budgets, strategies and windows of real runs, what is refused, and, where the models are at hand,
# that measured layouts come in the order that was published for them.
#   SPKV=build/spkv MODEL=datasets/demo/model tests/recommend.sh
export OMP_WAIT_POLICY=passive # runs are short, and other work may go on beside them
spkv=${SPKV:-build/spkv} model=${MODEL:-datasets/demo/model}
. tests/outside

mkdir "$dir/corpus" "$dir/other"
i=0
while [ $i -lt 24 ]; do
    tail -c +$((150 * i + 1)) docs/method.md | head -c 500 | iconv -c -t ascii >"$dir/corpus/$i.txt"
    i=$((i + 1))
done
head -c 3000 docs/corpora.md >"$dir/other/1.txt"
profile() { "$spkv" profile "$model" --max-length 128 --quiet "$@"; }
expect 0 "" profile "$dir/corpus" -o "$dir/a.h5"
expect 0 "" profile "$dir/other" -o "$dir/b.h5"
expect 0 "" profile "$dir/corpus" --policy full --window 32 --record attention -o "$dir/dense.h5"
recommend() { "$spkv" recommend "$@"; }
n_global() { grep -o '"global"' "$1" | wc -l; }

# One table, one verdict.
expect 0 "of 24 documents were profiled" recommend "$dir/a.h5" --heads 6
for words in "interleaved-b" "mean of 20 draws" "densest-minimum" "resamples of the documents" "extrapolated: nothing longer"; do
    grep -q "$words" "$dir/out" || fail "no \"$words\" in the table"
done
expect 0 '"halves_overlap"' recommend "$dir/a.h5" --json
expect 0 "there is only one" recommend "$dir/b.h5"
expect 0 "fewer than 20 documents" recommend "$dir/b.h5"
expect 0 "of 25 documents" recommend "$dir/a.h5" "$dir/b.h5" -o "$dir/both.json"
grep -q '"profiles": \[' "$dir/both.json" || fail "a layout of two runs names one"
recommend "$dir/a.h5" --json --seed 3 >"$dir/one.json"
recommend "$dir/a.h5" --json --seed 3 >"$dir/two.json"
cmp "$dir/one.json" "$dir/two.json" || fail "equal seeds, unequal recommendations"

# Every strategy has the same budget.
expect 0 "" recommend "$dir/a.h5" --heads 5 --period 3 --phase 1 --last --attention "$dir/dense.h5" --pattern "$dir/both.json" \
    -o "$dir/all/"
for layout in "$dir"/all/*.json; do
    [ "$(n_global "$layout")" -eq 5 ] || fail "$layout has $(n_global "$layout") global heads, expected 5"
done
for name in interleaved interleaved-a interleaved-b random densest-layers densest-minimum densest-even densest-heads far-attention \
    imported; do
    [ -e "$dir/all/$name.json" ] || fail "no layout of $name"
done

# Budgets in bytes and time, windows out of attention.
cat >"$dir/bench.csv" <<'CSV'
what,policy,batch,context_tok,median_tok_per_s,kv_bytes
decode,full,1,512,200,1000000
decode,full,1,4096,100,8000000
CSV
expect 0 "decode step" recommend "$dir/a.h5" --decode-ms 6 --bench "$dir/bench.csv" --context 4096
expect 3 "windows alone" recommend "$dir/a.h5" --decode-ms 1 --bench "$dir/bench.csv"
expect 3 "windows alone" recommend "$dir/a.h5" --kv-bytes 10
expect 0 "windows of their own" recommend "$dir/dense.h5" --window-mass 0.9 --kv-share 0.5 -o "$dir/windows.json"
grep -q '"windows": \[' "$dir/windows.json" || fail "no windows in the layout"
expect 0 "policy layout" profile "$dir/other" -o "$dir/windows.h5" --policy "layout:file=$dir/windows.json"

# Two maps of heads side by side.
expect 0 "rank correlation (Spearman) 1.0000" "$spkv" show "$dir/a.h5" "$dir/a.h5"
expect 0 "the 5 largest of each: 100 % in common" "$spkv" show "$dir/a.h5" "$dir/all/densest-heads.json" --top 5
expect 0 '"top_overlap"' "$spkv" show "$dir/a.h5" "$dir/dense.h5" --json
printf '0.5\t0.5\n' >"$dir/small.tsv"
expect 3 "equal shapes" "$spkv" show "$dir/a.h5" "$dir/small.tsv"

# What is wrong is named, and nothing is left behind.
expect 2 "exclude" recommend "$dir/a.h5" --heads 3 --share 0.1
expect 2 "--bench" recommend "$dir/a.h5" --decode-ms 3
expect 2 "needs an option" recommend "$dir/a.h5" --strategy learned
expect 2 "is none" recommend "$dir/a.h5" --strategy densest
expect 2 "can be global" recommend "$dir/a.h5" --heads 1000
expect 3 "attention_distance" recommend "$dir/a.h5" --window-mass 0.9 -o "$dir/x.json"
expect 3 "does not go with" recommend "$dir/a.h5" "$dir/dense.h5" -o "$dir/x.json"
expect 3 "far_attention_sum" recommend "$dir/a.h5" --attention "$dir/b.h5" -o "$dir/x.json"
expect 3 "static gates" recommend "$dir/a.h5" --learned "$model" -o "$dir/x.json"
printf 'what,batch\n' >"$dir/bad.csv"
expect 3 "median_tok_per_s" recommend "$dir/a.h5" --bench "$dir/bad.csv" -o "$dir/x.json"
printf '0.5\tx\n' >"$dir/bad.tsv"
expect 3 "bad.tsv" recommend "$dir/a.h5" --pattern "$dir/bad.tsv" -o "$dir/x.json"
head -c 5000 "$dir/a.h5" >"$dir/cut.h5"
expect 3 "cut.h5" recommend "$dir/cut.h5" -o "$dir/x.json"
sed 's/"n_layers": [0-9]*/"n_layers": 2000000000/' "$dir/both.json" >"$dir/bomb.json"
expect 3 "n_layers" recommend "$dir/a.h5" --pattern "$dir/bomb.json" -o "$dir/x.json"
[ -e "$dir/x.json" ] && fail "a refused recommendation left a layout"

# stories260k with gates, 6 of 20 heads: densest heads and SP-KV lose next to nothing, every period-4 pattern more, random more
# than the best of them, the window most.
stories=../shared/models/stories260k-spkv data=tests/data/stories
if [ -d "$stories" ]; then
    expect 0 "" "$spkv" profile "$stories" $data/choose.jsonl --max-length 512 --quiet -o "$dir/stories.h5"
    expect 0 "is stable" recommend "$dir/stories.h5" --heads 6 -o "$dir/densest.json"
    for i in 0 1 2 3; do
        expect 0 "" recommend "$dir/stories.h5" --heads 6 --period 4 --phase $i --strategy interleaved -o "$dir/pattern$i.json"
        expect 0 "" recommend "$dir/stories.h5" --heads 6 --seed $i --strategy random -o "$dir/random$i.json"
    done
    expect 0 "" "$spkv" verify "$stories" $data/measure.jsonl --max-length 512 --resamples 200 --quiet -o "$dir/measured" \
        --csv "$dir/table.csv" "$dir/densest.json" "$dir"/pattern?.json "$dir"/random?.json
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        { nll[$2] = $at["nll_nat_per_token"] }
        END {
            full = nll["full"]; densest = nll["densest"] / full - 1; spkv = nll["spkv"] / full - 1; window = nll["window"] / full - 1
            best = worst = nll["pattern0"] / full - 1
            for (i = 0; i < 4; i++) {
                x = nll["pattern" i] / full - 1; best = x < best ? x : best; worst = x > worst ? x : worst
                random += (nll["random" i] / full - 1) / 4
            }
            printf "densest %.4f, spkv %.4f, patterns %.4f to %.4f, random %.4f, window %.4f\n", densest, spkv, best, worst,
                random, window
            exit !(full > 0 && densest < 0.01 && spkv < 0.01 && densest < best / 2 && spkv < best / 2 && best < random &&
                random < window && worst < window)
        }' "$dir/table.csv" >"$dir/order" || fail "layouts come in another order: $(cat "$dir/order")"
    cat "$dir/order"
else
    echo "SKIP: the order of measured layouts ($stories is not there)"
fi

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
