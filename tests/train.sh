#!/bin/sh
# spkv train from outside: a small model learns, a killed run ends as an undisturbed one, what is wrong is refused by name.
#   SPKV=build/spkv MODEL=datasets/demo/model tests/train.sh
export OMP_WAIT_POLICY=passive # runs are short, and other work may go on beside them
spkv=${SPKV:-build/spkv} model=${MODEL:-datasets/demo/model} kills=${KILLS:-4}
. tests/outside

small_model "$model/tokenizer.json"
head -c 20000 docs/method.md >"$dir/text.txt"
head -c 4000 README.md >"$dir/held.txt"
cat >"$dir/schedule.json" <<'JSON'
{"steps": 20, "sequences": 4, "accumulation": 2, "context_len": 64, "window": 8, "learning_rate": 0.01, "warmup_steps": 2,
 "soft_frac": 0.5, "density_weight": 0.3, "start_bias": 1, "eval_every": 10, "save_every": 3}
JSON
small="--schedule $dir/schedule.json --threads 1 --quiet"
start() { "$spkv" train pretrain "$dir/config.json" "$dir/text.txt" $small --eval "$dir/held.txt" -o "$@"; }
cell() { awk -F, -v step="$2" -v column="$3" '$1 == step { print $column }' "$1/log.csv"; }
below() { awk "BEGIN { exit !($1 < $2) }" || fail "$3: $1 is not below $2"; }

# A run from random weights: the loss falls, everything is where it should be, other commands read it.
begin=$(date +%s%N)
expect 0 "held out" start "$dir/whole"
whole_ms=$((($(date +%s%N) - begin) / 1000000))
below "$(cell "$dir/whole" 20 3)" 6 "the loss after 20 steps (ln 1024 is 6.93)"
below "$(cell "$dir/whole" 20 12)" "$(cell "$dir/whole" 0 12)" "the held-out loss"
[ "$(cell "$dir/whole" 20 6)" = 1 ] || fail "gates are not hard at the end"
for file in run.json schedule.json log.csv heads.csv checkpoint/config.json checkpoint/model.safetensors \
            checkpoint/tokenizer.json checkpoint/training_state.json checkpoint/training_state.safetensors; do
    [ -s "$dir/whole/$file" ] || fail "$file is missing"
done
[ "$(ls "$dir/whole" | wc -l)" -eq 5 ] || fail "leftovers: $(ls "$dir/whole")"
expect 0 "layers" "$spkv" info "$dir/whole/checkpoint"
expect 0 "policy spkv" "$spkv" profile "$dir/whole/checkpoint" "$dir/held.txt" -o "$dir/run.h5" --max-length 64 --quiet
expect 0 "complete already" "$spkv" train resume "$dir/whole"
expect 0 '"step": 20' "$spkv" train resume "$dir/whole" --json --quiet
grep -q '"loss_nat_per_token": [0-9]' "$dir/out" || fail "a complete run has no loss: $(cat "$dir/out")"
expect 3 "another process" flock "$dir/whole/run.json" "$spkv" train resume "$dir/whole"
expect 3 "spkv report" "$spkv" show "$dir/whole"
expect 3 "is a model" "$spkv" report "$dir/whole/checkpoint" -o "$dir/x"
expect 3 "exists" start "$dir/whole"

# Killed at random moments and resumed: the same weights and log (times left out).
same() { # same RUN: as the whole run
    cmp "$dir/whole/checkpoint/model.safetensors" "$1/checkpoint/model.safetensors" || fail "$1: other weights"
    cmp "$dir/whole/checkpoint/training_state.safetensors" "$1/checkpoint/training_state.safetensors" || fail "$1: other state"
    for run in "$dir/whole" "$1"; do cut -d, -f 1-10,12-15 "$run/log.csv" >"$run.log"; done
    cmp "$dir/whole.log" "$1.log" || fail "$1: another log"
    cmp "$dir/whole/heads.csv" "$1/heads.csv" || fail "$1: other densities of heads"
}
go_on() { # replaces the shell it runs in, so that a kill hits the program itself
    [ -e "$1/run.json" ] && exec "$spkv" train resume "$1" --quiet
    exec "$spkv" train pretrain "$dir/config.json" "$dir/text.txt" $small --eval "$dir/held.txt" -o "$1" --force
}
random() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }
i=0
while [ "$i" -lt "$kills" ]; do
    (go_on "$dir/killed") >"$dir/out" 2>&1 &
    pid=$!
    ms=$(($(random) % (whole_ms * 2 / 3 + 1) + whole_ms / 20))
    sleep "$(awk "BEGIN { print $ms / 1000 }")"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    i=$((i + 1))
done
(go_on "$dir/killed") >"$dir/out" 2>&1 || { fail "a killed run does not go on"; cat "$dir/out"; }
same "$dir/killed"
[ "$(ls "$dir/killed" | wc -l)" -eq 5 ] || fail "leftovers: $(ls "$dir/killed")"
(go_on "$dir/stopped") >"$dir/out" 2>&1 &
pid=$!
sleep "$(awk "BEGIN { print $whole_ms / 2000 }")"
kill -INT $pid 2>/dev/null
wait $pid
status=$?
[ "$status" -eq 4 ] || [ "$status" -eq 0 ] || [ "$status" -eq 130 ] || fail "an interrupted run exits $status: $(cat "$dir/out")"
[ "$status" -eq 4 ] && { grep -q "is saved" "$dir/out" || fail "an interrupted run says: $(cat "$dir/out")"; }
(go_on "$dir/stopped") >"$dir/out" 2>&1 || { fail "an interrupted run does not go on"; cat "$dir/out"; }
same "$dir/stopped"

# Data that changed, or another schedule, is noticed.
cp -r "$dir/whole" "$dir/other"
sed -i "s|$dir/text.txt|$dir/held.txt|" "$dir/other/run.json"
expect 3 "corpora" "$spkv" train resume "$dir/other"
cp "$dir/whole/run.json" "$dir/other/run.json"
sed -i 's/"learning_rate": 0.01/"learning_rate": 0.02/' "$dir/other/schedule.json"
expect 3 "learning_rate" "$spkv" train resume "$dir/other"
expect 3 "no training run" "$spkv" train resume "$dir/nothing"
cp "$dir/whole/schedule.json" "$dir/other/schedule.json"
sed -i 's/"compute": "f32"/"compute": "f16"/' "$dir/other/run.json"
expect 3 "compute" "$spkv" train resume "$dir/other"
sed 's/"path"/"file"/' "$dir/whole/run.json" >"$dir/other/run.json"
expect 3 "entry 1 of \"corpora\"" "$spkv" train resume "$dir/other"
cp "$dir/whole/run.json" "$dir/other/run.json"
sed -i 's/"step": 20/"step": 21/' "$dir/other/checkpoint/training_state.json"
expect 3 "step" "$spkv" train resume "$dir/other"

# Weights that were kept without their state are not replaced by a new start; nor is what a run begins with removed.
rm "$dir/other/checkpoint/training_state.json"
mkdir "$dir/other/start"
expect 3 "training_state.json" "$spkv" train resume "$dir/other"
cmp "$dir/whole/checkpoint/model.safetensors" "$dir/other/checkpoint/model.safetensors" || fail "a refused run replaced weights"
[ -d "$dir/other/start" ] || fail "a run removed what is not its own"
again() { "$spkv" train adapt "$dir/whole/checkpoint" "$dir/text.txt" $small -o "$dir/whole" --force; }
expect 3 "give another directory" again
[ -s "$dir/whole/checkpoint/model.safetensors" ] || fail "a run removed its own start"

# Adapting: the model itself stays as it is, only predictor or gates are written; a dense twin has none.
adapt() { "$spkv" train adapt "$dir/whole/checkpoint" "$dir/text.txt" $small --steps 6 --warmup-steps 0 -o "$@"; }
expect 0 "" adapt "$dir/frozen" --freeze-model --new-predictor
[ -s "$dir/frozen/checkpoint/spkv.safetensors" ] || fail "no predictor was saved"
[ -e "$dir/frozen/checkpoint/model.safetensors" ] && fail "a frozen model was written"
profile() { "$spkv" profile "$dir/whole/checkpoint" "$dir/held.txt" --max-length 64 --quiet "$@"; }
expect 0 "policy spkv" profile --predictor "$dir/frozen/checkpoint" -o "$dir/frozen.h5"
expect 0 "fitted (KVzap-style), mean squared error" adapt "$dir/fitted" --target oracle --density-weight 0
grep -q '"method": "fitted (KVzap-style)"' "$dir/fitted/checkpoint/spkv_config.json" || fail "fitted gates do not say so"
expect 0 "policy spkv, predictor fitted (KVzap-style)" profile --predictor "$dir/fitted/checkpoint" -o "$dir/fitted.h5"
expect 0 "policy gates, predictor fitted (KVzap-style)" profile --policy "gates:file=$dir/fitted/checkpoint" -o "$dir/gates.h5"
expect 3 "frozen model" adapt "$dir/unfrozen" --target oracle --density-weight 0 --trained all
for kind in head layer; do
    expect 0 '"step": 6' adapt "$dir/static-$kind" --static-gates=$kind --json
    expect 0 "policy spkv" profile --predictor "$dir/static-$kind/checkpoint" -o "$dir/static-$kind.h5"
done
expect 0 "" adapt "$dir/new/twin" --policy full --dtype f32

# Additions of a model: it goes on with gates of whatever kind, and says when it leaves something out.
from() { # START OUT OPTION...
    start=$1 out=$2
    shift 2
    "$spkv" train adapt "$dir/$start/checkpoint" "$dir/text.txt" --schedule "$dir/schedule.json" --threads 1 --steps 6 \
        --warmup-steps 0 -o "$dir/$out" "$@"
}
complete() { # a run that wrote additions alone becomes a whole model
    cp "$dir/dense/checkpoint/config.json" "$dir/dense/checkpoint/model.safetensors" "$dir/dense/checkpoint/tokenizer.json" \
        "$dir/$1/checkpoint/"
}
expect 0 "" "$spkv" train pretrain "$dir/config.json" "$dir/text.txt" $small --policy full --steps 4 -o "$dir/dense"
expect 0 "" from dense static --static-gates --quiet
complete static
expect 0 "goes on with the predictor" from static static-again
grep -q '"predictor_kind": "static"' "$dir/static-again/schedule.json" || fail "other gates: $(cat "$dir/static-again/schedule.json")"
expect 0 "" from dense low-rank --policy full --lora 2 --quiet
complete low-rank
expect 0 "left out" from low-rank low-rank-gated --lora 2
expect 0 "" adapt "$dir/window" --policy window --window 8
cat >"$dir/layout.json" <<'JSON'
{"format": "spkv-layout", "version": 1, "model": {"n_layers": 2, "n_kv_heads": 2}, "window": 8, "sinks": 0,
 "heads": [["global", "local"], ["local", "local"]]}
JSON
program=$(realpath "$spkv")
inside() { (cd "$dir" && "$program" train adapt whole/checkpoint text.txt $small --steps 6 --warmup-steps 0 "$@"); }
expect 0 "" inside --policy layout:file=layout.json -o layout
grep -qF "\"policy\": \"layout:file=$dir/layout.json\"" "$dir/layout/schedule.json" || fail "a layout without its whole path"
expect 0 "complete already" "$spkv" train resume "$dir/layout"
expect 1 "no-layout.json" inside --policy layout:file=no-layout.json -o x
expect 0 "" adapt "$dir/again" --density-weight 0.1 --target-density 0.3 --answer-only=false
expect 3 "exists" adapt "$dir/again"
expect 0 "" adapt "$dir/again" --force --gates sampled --recompute

# Prompts and answers, shares of corpora.
"$spkv" tasks recall -n 60 --fillers 1 --items 2 >"$dir/rows.jsonl"
answers() { "$spkv" train adapt "$dir/whole/checkpoint" $small --steps 4 --warmup-steps 0 --context-len 128 "$@"; }
expect 0 "" answers "$dir/rows.jsonl:0.3" "$dir/text.txt:0.7" -o "$dir/mixed"
expect 0 "" answers "$dir/rows.jsonl" --answer-only -o "$dir/answers"
expect 3 "text.txt" answers "$dir/text.txt" --answer-only -o "$dir/x"
expect 2 "weight" answers "$dir/text.txt:many" -o "$dir/x"

# What is wrong is refused, with nothing written.
expect 2 "pretrain" "$spkv" train
expect 2 "-o OUT" "$spkv" train adapt "$model" "$dir/text.txt"
expect 2 "CORPUS" "$spkv" train adapt "$model" -o "$dir/x"
expect 2 "resume" "$spkv" train resume "$dir/whole" --steps 30
expect 2 "learning_rate" adapt "$dir/x" --learning-rate fast
expect 2 "--freeze-model" start "$dir/x" --freeze-model
echo '{"steps": 20, "lerning_rate": 1}' >"$dir/unknown.json"
expect 3 "lerning_rate" "$spkv" train adapt "$model" "$dir/text.txt" --schedule "$dir/unknown.json" -o "$dir/x"
echo '{"steps": 20, "policy": "sparse", "context_len": 64, "window": 8}' >"$dir/sparse.json"
expect 3 "sparse.json" "$spkv" train adapt "$model" "$dir/text.txt" --schedule "$dir/sparse.json" -o "$dir/x"
grep -q '"policy"' "$dir/out" || fail "a wrong policy is not named: $(cat "$dir/out")"
expect 3 "hard before the last step" adapt "$dir/x" --anneal-steps 10
expect 3 "steps" "$spkv" train adapt "$model" "$dir/text.txt" -o "$dir/x"
expect 3 "positions" adapt "$dir/x" --context-len 512
head -c 100 "$dir/text.txt" >"$dir/short.txt"
expect 3 "short.txt" "$spkv" train pretrain "$dir/config.json" "$dir/short.txt" $small -o "$dir/x"
expect 1 "nothing.txt" "$spkv" train pretrain "$dir/config.json" "$dir/nothing.txt" $small -o "$dir/x"
mkdir "$dir/foreign" && sed 's/"vocab_size": 4096/"vocab_size": 512/' "$dir/config.json" >"$dir/foreign/config.json"
expect 3 "tokenizer.json" "$spkv" train pretrain "$dir/foreign" "$dir/text.txt" $small -o "$dir/x"
expect 3 "vocab_size" "$spkv" train pretrain "$dir/foreign" "$dir/text.txt" --tokenizer "$model/tokenizer.json" $small -o "$dir/x"
expect 3 "step" "$spkv" train pretrain "$dir/config.json" "$dir/text.txt" $small --learning-rate 10 --clip-norm 0 --epsilon 1e-30 -o "$dir/wild" --steps 400
[ -e "$dir/x" ] && fail "a refused run left $(ls -R "$dir/x")"

expect 3 "short.txt" "$spkv" train pretrain "$dir/config.json" "$dir/short.txt" $small -o "$dir/other" --force
[ -s "$dir/other/checkpoint/model.safetensors" ] || fail "a refused run took the old result away"

# A full disk: an error, the last checkpoint stays whole, and the run goes on when there is room again.
(go_on "$dir/disk") >"$dir/out" 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null && [ ! -e "$dir/disk/checkpoint" ]; do sleep 0.02; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
step=$(sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$dir/disk/checkpoint/training_state.json")
if [ "$step" -lt 20 ]; then
    expect 1 "File too large" sh -c "ulimit -f 200; exec $spkv train resume $dir/disk --quiet"
    grep -q "\"step\": $step" "$dir/disk/checkpoint/training_state.json" || fail "a full disk took the checkpoint away"
    [ "$(ls "$dir/disk" | wc -l)" -eq 5 ] || fail "a full disk left $(ls "$dir/disk")"
fi
(go_on "$dir/disk") >"$dir/out" 2>&1 || { fail "a run does not go on after a full disk"; cat "$dir/out"; }
same "$dir/disk"

[ "$failed" -eq 0 ] && echo "ok"
exit "$failed"
