#!/bin/sh
# Generated tasks and the tasks that are answered by a text, from outside: spkv tasks ruler, spkv eval on RULER, GSM8K, recall.
spkv=${SPKV:-build/spkv} model=${MODEL:-datasets/demo/model}
. tests/outside
eval_() { "$spkv" eval "$model" --threads 1 --quiet --dtype f32 --sinks 4 "$@"; }
ruler() { "$spkv" tasks ruler --model "$model" "$@"; }

# What cannot be generated.
expect 2 "which task" "$spkv" tasks
expect 2 "how long is a row" ruler -n 1
expect 2 "Give --model DIR" "$spkv" tasks ruler --length 500
expect 2 "its smallest row has" ruler --length 200 --task niah_single_2
expect 2 "exceed the limit" ruler --length 5000
expect 2 "not a task of RULER" ruler --length 500 --task niah_single_9
expect 2 "--squad FILE" ruler --length 500 --task qa_1
expect 2 "no option of recall" "$spkv" tasks recall --task vt
expect 2 "no option of ruler" ruler --length 500 --kind pairs
expect 2 "no --length" "$spkv" tasks palindrome --length 500
expect 1 "none.txt" ruler --length 500 --haystack "$dir/none.txt"

# The same options, the same bytes; what is there stays there.
expect 0 "qa_2 is left out" ruler --length 900 -n 1 -o "$dir/ruler.jsonl"
expect 3 "exists" ruler --length 900 -n 1 -o "$dir/ruler.jsonl"
expect 0 "" ruler --length 900 -n 1 -o "$dir/again.jsonl"
cmp -s "$dir/ruler.jsonl" "$dir/again.jsonl" || fail "the same options give other rows"
[ "$(wc -l <"$dir/ruler.jsonl")" -eq 11 ] || fail "not a row a task"

# RULER: what the model cannot do is at the floor; what it can do makes the average, and every row has its density.
grep -h '"vt"' "$dir/ruler.jsonl" >"$dir/tasks.jsonl"
"$spkv" tasks recall --kind pairs -n 3 | sed \
    's/{"prompt": \(".*"\), "completion": " \([0-9]*\)\."}/{"input": \1, "outputs": ["\2"], "task": "niah_single_1", "max_length": 900}/' \
    >>"$dir/tasks.jsonl"
expect 0 "mean, 1 task" eval_ "$dir/tasks.jsonl" -o "$dir/items.jsonl"
grep -qE "^vt .* 0\.0000 .*floor" "$dir/out" || fail "no floor: $(cat "$dir/out")"
grep -qE "^niah_single_1 +3 +0 string_match +100\.0000" "$dir/out" || fail "pairs are not recalled: $(cat "$dir/out")"
grep -qE "^RULER 900 +3 .* 100\.0000 .*1 at the floor left out" "$dir/out" || fail "no average: $(cat "$dir/out")"
[ "$(wc -l <"$dir/items.jsonl")" -eq 4 ] || fail "not a line an item"
grep -q '"pred":' "$dir/items.jsonl" || fail "no answers"
expect 0 '"chat": "none"' eval_ "$dir/tasks.jsonl" --policy full --limit 1 --json
sed 's/"max_length": 900/"max_length": 1800/' "$dir/tasks.jsonl" | tail -n 1 >"$dir/longer.jsonl"
expect 0 "wAvg (inc)        100.0000" eval_ "$dir/tasks.jsonl" "$dir/longer.jsonl" --policy full --limit 1
grep -qE "^niah_single_1 1800 +1 " "$dir/out" || fail "rows of two lengths have one name: $(cat "$dir/out")"
expect 3 "comes more than once" eval_ "$dir/longer.jsonl" "$dir/longer.jsonl" --policy full
mkdir "$dir/niah_single_1" && sed 's/, "task": "niah_single_1", "max_length": 900//' "$dir/tasks.jsonl" | tail -n 3 \
    >"$dir/niah_single_1/validation.jsonl" # as RULER lays out its own
expect 0 "niah_single_1" eval_ "$dir/niah_single_1/validation.jsonl" --limit 1 --alone
grep -q "floor not known" "$dir/out" || fail "the floor is known without full attention"

# Exact recall, and examples before a question.
"$spkv" tasks recall --kind pairs -n 4 --length 256 --model "$model" -o "$dir/pairs.jsonl"
expect 0 "exact_match         1.0000" eval_ "$dir/pairs.jsonl" --alone
printf '%s\n' '{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}' '{"question": "2 + 2?", "answer": "#### 4"}' >"$dir/gsm.jsonl"
expect 0 "flexible_extract" eval_ "$dir/gsm.jsonl" --shots 1 --limit 1 --alone
expect 3 "too few" eval_ "$dir/gsm.jsonl" --shots 2
expect 2 "hold their examples" eval_ "$dir/tasks.jsonl" --shots 1

# Rows that cannot be asked: file, line, remedy.
sed 's/"outputs"/"output"/' "$dir/tasks.jsonl" | sed '1!d' >"$dir/bad.jsonl"
expect 3 "bad.jsonl:1" eval_ "$dir/bad.jsonl"
{ head -n 1 "$dir/tasks.jsonl"; echo '{"input": "x", "task": "vt"}'; } >"$dir/bad.jsonl"
expect 3 'bad.jsonl:2: "outputs" is missing' eval_ "$dir/bad.jsonl"
expect 0 "" "$spkv" tasks ruler --tokenizer "$model/tokenizer.json" --length 1500 -n 1 --task vt -o "$dir/long.jsonl"
expect 3 "long.jsonl:1: the prompt and its answer are" eval_ "$dir/long.jsonl"

# Chat templates.
echo 'no mark' >"$dir/chat.txt"
expect 3 "chat.txt" eval_ "$dir/pairs.jsonl" --chat "$dir/chat.txt"
printf '{prompt}' >"$dir/chat.txt"
expect 0 '"chat": "file:' eval_ "$dir/pairs.jsonl" --chat "$dir/chat.txt" --limit 1 --alone --json

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
