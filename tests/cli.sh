#!/bin/sh
# The program from outside, on the shipped model: exit statuses, messages that name file and place, nothing lost, nothing half.
#   SPKV=build/spkv RUN_EQUAL=build/tests/tools/run_equal MODEL=datasets/demo/model tests/cli.sh
spkv=${SPKV:-build/spkv} run_equal=${RUN_EQUAL:-build/tests/tools/run_equal} model=${MODEL:-datasets/demo/model}
. tests/outside

mkdir "$dir/corpus"
for i in 1 2 3 4 5 6 7; do head -c $((500 * i)) docs/method.md >"$dir/corpus/$i.txt"; done
profile() { "$spkv" profile "$model" "$dir/corpus" --max-length 128 --batch 2 --quiet "$@"; }

# Help, version, usage.
expect 0 "spkv" "$spkv" --version
expect 0 "recommend" "$spkv" --help
for command in profile show report recommend generate info bench tasks import export merge check; do
    expect 0 "Usage:" "$spkv" $command --help
    expect 2 "" "$spkv" $command --no-such-option
done
expect 2 "not a command" "$spkv" prophile
expect 2 "MODEL" "$spkv" profile
expect 2 "is not a policy" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --policy sparse
expect 2 "no parameter" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --policy full:depth=3
expect 2 "below window + sinks" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --policy h2o:constant=10
expect 2 "chunk=N" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --policy h2o --prefill dense
expect 2 "--threads" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --threads many
expect 2 "--record" "$spkv" profile "$model" "$dir/corpus" -o "$dir/x.h5" --record everything

# Bad input: status, file, place. Nothing is left behind.
expect 3 "no/model" "$spkv" profile no/model "$dir/corpus" -o "$dir/x.h5"
expect 1 "nothing.txt" "$spkv" profile "$model" "$dir/nothing.txt" -o "$dir/x.h5"
printf 'fine so far \377 not' >"$dir/latin1.txt"
expect 3 "12" "$spkv" profile "$model" "$dir/latin1.txt" -o "$dir/x.h5"
: >"$dir/empty.txt"
expect 3 "empty.txt" "$spkv" profile "$model" "$dir/empty.txt" -o "$dir/x.h5"
printf '{"text": "one"}\n{"txet": "two"}\n' >"$dir/rows.jsonl"
expect 3 "rows.jsonl:2" "$spkv" profile "$model" "$dir/rows.jsonl" -o "$dir/x.h5"
mkdir "$dir/cut" && cp "$model"/*.json "$dir/cut/" && head -c 100000 "$model/model.safetensors" >"$dir/cut/model.safetensors"
expect 3 "model.safetensors" "$spkv" info "$dir/cut"
expect 3 "model.safetensors" "$spkv" profile "$dir/cut" "$dir/corpus" -o "$dir/x.h5"
echo '{"model_type": "mamba"}' >"$dir/cut/config.json"
expect 3 "mamba" "$spkv" info "$dir/cut"
expect 3 "latin1.txt" "$spkv" show "$dir/latin1.txt"
expect 3 "latin1.txt" "$spkv" recommend "$dir/latin1.txt" -o "$dir/l.json"
[ -e "$dir/x.h5" ] || [ -e "$dir/x.h5.part" ] && fail "a refused run left something behind"

# The way from text to layout, and back.
expect 0 "nat/token" profile -o "$dir/run.h5" --record tokens,utility,open,classes
expect 3 "exists" profile -o "$dir/run.h5"
expect 0 "" profile -o "$dir/run.h5" --record tokens,utility,open,classes --resume
expect 0 "long-range density" "$spkv" show "$dir/run.h5"
expect 0 '"schema"' "$spkv" show "$dir/run.h5" --json
expect 0 "gate density by layer (down) and KV head (across)" "$spkv" show "$dir/run.h5" --heatmap=gate_density
expect 3 "one of: density" "$spkv" show "$dir/run.h5" --heatmap=colours
# Colours on a terminal only, and not there with NO_COLOR.
escapes() { grep -q "$(printf '\033')" "$dir/out"; }
expect 0 "" "$spkv" show "$dir/run.h5" --heatmap
escapes && fail "escape sequences go into a pipe"
on_terminal="TERM=xterm script -qec '$spkv show $dir/run.h5 --heatmap' /dev/null"
if command -v script >/dev/null 2>&1; then
    expect 0 "" env -u NO_COLOR sh -c "$on_terminal"
    escapes || fail "no colours on a terminal"
    expect 0 "a tenth each" env NO_COLOR=1 sh -c "$on_terminal"
    escapes && fail "escape sequences in spite of NO_COLOR"
fi
expect 0 "" "$spkv" check "$dir/run.h5"
expect 0 "index.html" "$spkv" report "$dir/run.h5" -o "$dir/report"
expect 3 "exists" "$spkv" report "$dir/run.h5" -o "$dir/report"
[ -s "$dir/report/index.html" ] || fail "no page"
grep -qE '(src|href)="https?:' "$dir/report/index.html" && fail "the page asks the network for something"
for file in tokens_0.csv keep_map_0.png keep_map_0.csv.gz most_kept_tokens.csv head_correlation.csv; do
    [ -s "$dir/report/$file" ] || fail "the report has no $file"
done
grep -q ',<|bos|>,' "$dir/report/tokens_0.csv" || fail "tokens have no text"
expect 0 "most kept tokens" "$spkv" show "$dir/run.h5" --tokens=3
expect 3 "no sequence 99" "$spkv" report "$dir/run.h5" -o "$dir/x" --sequence 99
printf 'read_fraction,nll_change\n0.5,much\n' >"$dir/table.csv"
expect 3 "table.csv:2" "$spkv" report "$dir/table.csv" -o "$dir/x"
echo '{"format": "spkv-layout", "version": 1, "heads": 7}' >"$dir/bad.json"
expect 3 "bad.json" "$spkv" report "$dir/run.h5" "$dir/bad.json" -o "$dir/x"
[ -e "$dir/x" ] && fail "a refused report left something behind"
expect 0 "coverage" "$spkv" recommend "$dir/run.h5" -o "$dir/layout.json"
expect 0 "index.html" "$spkv" report "$dir/layout.json" -o "$dir/layouts"
grep -q '^densest-heads,layout,' "$dir/layouts/candidates.csv" || fail "the layout is not among the candidates"
expect 3 "exists" "$spkv" recommend "$dir/run.h5" -o "$dir/layout.json"
expect 0 "policy layout" profile -o "$dir/layout.h5" --policy "layout:file=$dir/layout.json"
expect 0 "policy window" profile -o "$dir/window.h5" --policy window --sinks 4 --prefill dense
expect 0 "policy h2o" profile -o "$dir/h2o.h5" --policy h2o:budget=0.25,chunk=20 --window 32 --sinks 2
expect 0 "sound" "$spkv" check "$dir/h2o.h5"
expect 0 "policy keynorm" profile -o "$dir/keynorm.h5" --policy keynorm:threshold=-5 --limit 2
expect 0 "policy oracle" profile -o "$dir/foreseen.h5" --policy oracle:threshold=0.05,value-norm=1 --limit 2
grep -q "knows_the_future" "$dir/foreseen.h5" || fail "the record of an oracle does not say that it knows the future"
expect 2 "knows the future" "$spkv" generate "$model" -p x --policy oracle:threshold=0.05
expect 2 "needs a threshold" profile -o "$dir/x.h5" --policy keynorm
mkdir "$dir/heads" && echo '{"sink_size": 2, "recent_size": 16}' >"$dir/heads/config.json"
for layer in 1 2 3 4 5 6 7; do printf '1\t0.7\t-0.1\n'; done >"$dir/heads/full_attention_heads.tsv"
expect 0 "policy duo" profile -o "$dir/duo.h5" --policy "duo:file=$dir/heads,heads-global=0.2" --limit 2
expect 0 "duo, window 16, sinks 2" "$spkv" show "$dir/duo.h5"
echo "1	1	1" >"$dir/heads/full_attention_heads.tsv"
expect 3 "another model" profile -o "$dir/x.h5" --policy "duo:file=$dir/heads"
expect 0 "policy full" profile -o "$dir/oracle.h5" --policy full --record tokens,oracle
for name in attention_future_max attention_future_mean; do
    grep -q "$name" "$dir/oracle.h5" || fail "--record oracle leaves no $name"
    grep -q "$name" "$dir/window.h5" && fail "$name without --record oracle"
done
expect 0 "under policy full only" "$spkv" profile "$model" "$dir/corpus" --max-length 128 --limit 2 --policy window \
    --record tokens,oracle -o "$dir/no-oracle.h5"

# Equal settings, equal data; shards and merge; an interrupted run and its rest.
expect 0 "" profile -o "$dir/again.h5" --record tokens,utility,open,classes
"$run_equal" "$dir/run.h5" "$dir/again.h5" >"$dir/out" || fail "two equal runs differ: $(cat "$dir/out")"
for i in 0 1 2; do expect 0 "" profile -o "$dir/shard$i.h5" --record tokens,utility,open,classes --shard $i/3; done
expect 0 "" "$spkv" merge "$dir/shard0.h5" "$dir/shard1.h5" "$dir/shard2.h5" -o "$dir/merged.h5"
"$run_equal" "$dir/run.h5" "$dir/merged.h5" >"$dir/out" || fail "merged shards differ from the whole run: $(cat "$dir/out")"
expect 3 "" "$spkv" merge "$dir/shard0.h5" "$dir/shard2.h5" -o "$dir/half.h5"
"$spkv" profile "$model" "$dir/corpus" --max-length 32 --batch 1 --chunk 1 --quiet -o "$dir/stopped.h5" >"$dir/out" 2>&1 &
pid=$!
sleep 0.3
kill -INT $pid 2>/dev/null
wait $pid
status=$?
[ "$status" -eq 4 ] || [ "$status" -eq 0 ] || fail "an interrupted run exits $status: $(cat "$dir/out")"
expect 0 "" "$spkv" profile "$model" "$dir/corpus" --max-length 32 --batch 1 --chunk 1 --quiet -o "$dir/stopped.h5" --resume
[ -e "$dir/stopped.h5.part" ] && fail "stopped.h5.part is left"
if [ "$status" -eq 4 ]; then
    expect 0 "" "$spkv" profile "$model" "$dir/corpus" --max-length 32 --batch 1 --chunk 1 --quiet -o "$dir/whole.h5"
    "$run_equal" "$dir/whole.h5" "$dir/stopped.h5" >"$dir/out" || fail "a resumed run differs: $(cat "$dir/out")"
    expect 3 "batch" "$spkv" profile "$model" "$dir/corpus" --max-length 32 --batch 3 --quiet -o "$dir/whole.h5" --resume
fi

# Results on standard output, a full disk is an error.
expect 0 '"text"' "$spkv" generate "$model" -p "The" -n 8 --json --quiet
expect 0 "layers" "$spkv" info "$model"
"$spkv" info "$model" >/dev/full 2>/dev/null
[ $? -eq 1 ] || fail "a full disk goes unnoticed"
profile -o /dev/full >/dev/null 2>&1 && fail "a run into /dev/full succeeds"
expect 0 "prefill" "$spkv" bench "$model" --contexts 64 --runs 1 --steps 2 --policies "full;window" --quiet
cat "$dir/corpus/1.txt" | "$spkv" profile "$model" - -o "$dir/stdin.h5" --quiet >/dev/null || fail "standard input is not read"
expect 2 "standard input" "$spkv" profile "$model" - -o "$dir/y.h5" --shard 0/2

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
