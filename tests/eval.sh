#!/bin/sh
# spkv eval and spkv serve from outside, on the shipped model: what is refused and where, lm_eval's figures, resume.
spkv=${SPKV:-build/spkv} model=${MODEL:-datasets/demo/model}
. tests/outside
data=tests/data/eval
eval_() { "$spkv" eval "$model" --threads 1 --quiet --dtype f32 "$@"; }

expect 0 "Usage:" "$spkv" eval --help
expect 0 "Usage:" "$spkv" serve --help
expect 2 "TASK" "$spkv" eval "$model"
expect 2 "no kind" eval_ nothing:$data/arc.jsonl
expect 2 "of which" eval_ $data/arc.jsonl --resume
expect 2 "stdio" "$spkv" serve "$model"

# Bad tasks: file, line, remedy.
printf '%s\n' '{"prompt": "a", "choices": ["b", "c"], "gold": 1}' '{"prompt": "a", "choices": ["b", "c"]}' >"$dir/gold.jsonl"
expect 3 'gold.jsonl:2: "gold" is missing' eval_ "$dir/gold.jsonl"
printf '%s\n' '{"prompt": "a", "choices": ["b", "c"], "gold": "d"}' >"$dir/foreign.jsonl"
expect 3 'foreign.jsonl:1: "gold" names none of the 2' eval_ "$dir/foreign.jsonl"
sed 's/"answerKey": "A"/"answerKey": "Z"/' $data/arc.jsonl >"$dir/arc.jsonl"
expect 3 'arc.jsonl:1: "answerKey" is "Z"' eval_ "$dir/arc.jsonl"
printf '{"prompt": "%s", "choices": ["b", "c"], "gold": 0}\n' "$(seq -s " word " 900)" >"$dir/long.jsonl"
expect 3 "long.jsonl:1: context and continuation are" eval_ "$dir/long.jsonl"
expect 0 '"n_truncated": 2' eval_ "$dir/long.jsonl" --truncate --json
expect 3 "too few" eval_ $data/boolq.jsonl --shots 2
: >"$dir/empty.jsonl"
expect 3 "empty.jsonl" eval_ "$dir/empty.jsonl"

# Figures as lm_eval has them (tests/data/eval/expected.json): acc_norm 4/7 with sqrt(4/7 * 3/7 / 6); words, bytes, bits.
expect 0 '"schema": "spkv-eval"' eval_ $data/arc.jsonl $data/rolling.jsonl --policy full --max-length 50 --json
for figure in '"value": 0.5714285714' '"stderr": 0.2020305089' '"value": 1303300' '"value": 30.1402' '"value": 4.91361'; do
    grep -qF "$figure" "$dir/out" || fail "no $figure"
done

# A policy beside full attention; questions within the window say nothing.
expect 0 "not informative" eval_ $data/commonsenseqa.jsonl --policy window --window 200
expect 0 '"informative": true' eval_ $data/commonsenseqa.jsonl --policy window --window 8 --json
cp docs/method.md "$dir/text.txt"
expect 0 "nat_per_token" eval_ "$dir/text.txt" --max-length 256 --stride 128 --alone

# Items; what was interrupted goes on and gives the same.
expect 0 "" eval_ $data/arc.jsonl $data/rolling.jsonl --policy window --window 16 -o "$dir/items.jsonl"
expect 3 "exists" eval_ $data/arc.jsonl -o "$dir/items.jsonl"
[ "$(wc -l <"$dir/items.jsonl")" -eq 10 ] || fail "not a line an item"
[ -e "$dir/items.jsonl.part" ] && fail "the journal is left"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat $data/arc.jsonl; done >"$dir/many.jsonl"
expect 0 "" eval_ "$dir/many.jsonl" -o "$dir/whole.jsonl"
eval_ "$dir/many.jsonl" -o "$dir/stopped.jsonl" >/dev/null 2>&1 &
pid=$!
while [ "$(cat "$dir/stopped.jsonl.part" 2>/dev/null | wc -l)" -lt 2 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
if [ -e "$dir/stopped.jsonl.part" ]; then
    expect 3 "--resume" eval_ "$dir/many.jsonl" -o "$dir/stopped.jsonl"
    expect 3 '"limit"' eval_ "$dir/many.jsonl" -o "$dir/stopped.jsonl" --resume --limit 3
    printf '["cut' >>"$dir/stopped.jsonl.part"
    expect 0 "acc_norm" eval_ "$dir/many.jsonl" -o "$dir/stopped.jsonl" --resume
fi
cmp "$dir/whole.jsonl" "$dir/stopped.jsonl" || fail "a resumed evaluation differs"

# One reply a request, whatever it is.
printf '%s\n' '{"id": 1, "method": "loglikelihood", "context": "The boy", "continuations": [" ran", " sat down"]}' \
    'nonsense' \
    '{"id": "b", "method": "generate_until", "context": "The boy", "max_gen_toks": 4, "until": ["."]}' '[]' '{"id": 2}' \
    '{"id": 3, "method": "loglikelihood_rolling", "text": "The boy ran."}' '{"id": 4, "method": "info"}' |
    "$spkv" serve --stdio "$model" --threads 1 --quiet >"$dir/replies" || fail "serve fails"
[ "$(wc -l <"$dir/replies")" -eq 7 ] || fail "not a reply a request: $(cat "$dir/replies")"
[ "$(grep -c '"error"' "$dir/replies")" -eq 3 ] || fail "not three errors: $(cat "$dir/replies")"
grep -q '^{"id":"b","text":"' "$dir/replies" || fail "no text: $(cat "$dir/replies")"

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
