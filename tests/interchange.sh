#!/bin/sh
# Files of other tools from outside: patterns in and out, hostile ones refused with file and line, shards of many processes,
# and the example of docs/interchange.md in Python.
#   SPKV=build/spkv RUN_EQUAL=build/tests/tools/run_equal MODEL=datasets/demo/model PYTHON=python3 tests/interchange.sh
spkv=${SPKV:-build/spkv} run_equal=${RUN_EQUAL:-build/tests/tools/run_equal} model=${MODEL:-datasets/demo/model}
. tests/outside
mkdir "$dir/corpus"
for i in 1 2 3 4 5 6; do head -c $((350 * i)) docs/method.md >"$dir/corpus/$i.txt"; done
profile() { "$spkv" profile "$model" "$dir/corpus" --max-length 128 --batch 2 --quiet --record tokens,open "$@"; }

# A run and its layout go out in every form, and come back.
expect 0 "nat/token" profile -o "$dir/run.h5"
expect 0 "" "$spkv" recommend "$dir/run.h5" --heads 9 -o "$dir/layout.json"
for format in duo-attention wg-kv kvpress layer-types; do
    expect 0 "$format, 7 layers x 3 KV heads" "$spkv" export "$dir/layout.json" --format $format -o "$dir/out-$format"
    expect 3 "exists" "$spkv" export "$dir/layout.json" --format $format -o "$dir/out-$format"
    expect 0 "$format, 7 layers x 3 KV heads" "$spkv" import "$dir/out-$format" --kv-heads 3
done
for format in duo-attention wg-kv wg-kv-log kvpress; do
    expect 0 "$format, 7 layers x 3 KV heads" "$spkv" export "$dir/run.h5" --format $format -o "$dir/run-$format"
    expect 0 "$format, 7 layers x 3 KV heads" "$spkv" import "$dir/run-$format" --kv-heads 3 --quiet
done
expect 0 "rank correlation 1.000, of the top 9 heads 100.0 %" "$spkv" import "$dir/out-duo-attention" --model "$model" \
    --against "$dir/layout.json" -o "$dir/back.json"
expect 0 "rank correlation 1.000" "$spkv" import "$dir/run-duo-attention" --against "$dir/run.h5" --png "$dir/map.png"
grep -o '"heads":.*\]' "$dir/back.json" >"$dir/a"
grep -o '"heads":.*\]' "$dir/layout.json" >"$dir/b"
cmp -s "$dir/a" "$dir/b" || fail "a layout changed on its way through DuoAttention's form"
[ -s "$dir/map.png" ] || fail "import --png draws nothing"
expect 0 "policy layout" profile --limit 2 -o "$dir/back.h5" --policy "layout:file=$dir/back.json"
expect 0 '"spkv-import"' "$spkv" import "$dir/out-wg-kv" --json
expect 0 '"spkv-export"' "$spkv" export "$dir/run.h5" --format wg-kv -o "$dir/out-wg-kv" --force --json
expect 2 "recommend" "$spkv" export "$dir/run.h5" --format layer-types -o "$dir/x"
expect 2 "a run file" "$spkv" export "$dir/layout.json" --format wg-kv-log -o "$dir/x"
expect 2 "--format" "$spkv" export "$dir/layout.json" --format gguf -o "$dir/x"

# The patched configuration says what it costs, and this program follows it.
mkdir "$dir/patched"
cp "$model"/*.safetensors "$model"/tokenizer.json "$dir/patched"
expect 0 "coverage" "$spkv" export "$dir/layout.json" --format layer-types --model "$model" --run "$dir/run.h5" \
    -o "$dir/patched/config.json"
expect 0 "sliding" "$spkv" info "$dir/patched"
[ -e "$dir/x" ] && fail "a refused export left something behind"

# Hostile and foreign files.
printf '0.5\t0.5\n0.5\tlots\n' >"$dir/bad.tsv"
expect 3 "bad.tsv:2: column 2" "$spkv" import "$dir/bad.tsv"
printf '0.5,0.5\n0.5\n' >"$dir/bad.csv"
expect 3 "bad.csv:2:" "$spkv" import "$dir/bad.csv"
printf '[0.5,\n 0.5,\n oops]' >"$dir/bad.json"
expect 3 "line 3" "$spkv" import "$dir/bad.json" --kv-heads 3
expect 3 "line 3" "$spkv" export "$dir/bad.json" --format wg-kv -o "$dir/x"
printf '{"layer_types": ["full_attention"], "num_hidden_layers": 1000000000, "num_key_value_heads": 1000}' >"$dir/bomb.json"
expect 3 "bomb.json" "$spkv" import "$dir/bomb.json"
expect 3 "run.h5" "$spkv" import "$dir/run.h5"
expect 3 "docs/method.md:1:" "$spkv" import docs/method.md
head -c 3000 "$dir/run.h5" >"$dir/cut.h5"
expect 3 "cut.h5" "$spkv" export "$dir/cut.h5" --format wg-kv -o "$dir/x"
expect 3 "cut.h5" "$spkv" import "$dir/out-wg-kv" --against "$dir/cut.h5"
expect 3 "has 7 x 2" "$spkv" import "$dir/out-kvpress" --kv-heads 2 --against "$dir/run.h5"
expect 3 "the model 7 x 3" "$spkv" import "$dir/out-kvpress" --kv-heads 2 --model "$model"
expect 1 "nothing.tsv" "$spkv" import "$dir/nothing.tsv"

# Seven shards, found as mpirun would say it; mixtures and holes are refused.
for i in 0 1 2 3 4 5 6; do
    expect 0 "s.$i-of-7.h5" env OMPI_COMM_WORLD_RANK=$i OMPI_COMM_WORLD_SIZE=7 "$spkv" profile "$model" "$dir/corpus" \
        --max-length 128 --batch 2 --quiet --record tokens,open -o "$dir/s.h5"
done
expect 0 "" "$spkv" merge "$dir"/s.*-of-7.h5 -o "$dir/s.h5"
"$run_equal" "$dir/run.h5" "$dir/s.h5" >"$dir/out" || fail "seven shards differ from the whole run: $(cat "$dir/out")"
expect 0 "sound" "$spkv" check "$dir/s.h5" "$dir/s.3-of-7.h5"
expect 3 "not given: shard 3/7" "$spkv" merge "$dir"/s.[012456]-of-7.h5 -o "$dir/x"
expect 3 "as well" "$spkv" merge "$dir"/s.*-of-7.h5 "$dir/s.2-of-7.h5" -o "$dir/x"
expect 0 "" profile --shard 3/7 --seed 5 -o "$dir/other.h5"
expect 3 "seed" "$spkv" merge "$dir"/s.[012456]-of-7.h5 "$dir/other.h5" -o "$dir/x"
expect 2 "--shard" env PMI_RANK=4 PMI_SIZE=4 "$spkv" profile "$model" "$dir/corpus" -o "$dir/x"
[ -e "$dir/x" ] && fail "a refused merge left something behind"

# A broken run: damage is found, the readable segments are saved, and a shard that was saved so is no finished one.
mkdir "$dir/broken.part"
cp "$dir/s.0-of-7.h5" "$dir/broken.part/000000.h5"
head -c 20000 "$dir/s.0-of-7.h5" >"$dir/broken.part/000001.h5"
expect 3 "000001.h5" "$spkv" check "$dir/broken.part"
expect 0 "left out" "$spkv" check "$dir/broken.part" --recover "$dir/saved.h5"
expect 0 "sound" "$spkv" check "$dir/saved.h5"

# Damage in the header of an object (every third one) is found, whether this program reads the object or not.
n=0
for at in $(grep -abo OHDR "$dir/run.h5" | cut -d : -f 1 | awk 'NR % 3 == 1'); do
    cp "$dir/run.h5" "$dir/flipped.h5"
    printf '\125' | dd of="$dir/flipped.h5" bs=1 seek=$((at + 40)) conv=notrunc 2>/dev/null
    cmp -s "$dir/run.h5" "$dir/flipped.h5" && continue
    n=$((n + 1))
    "$spkv" check "$dir/flipped.h5" >"$dir/out" 2>&1
    [ $? -eq 3 ] || fail "check does not see the damaged header at byte $at: $(cat "$dir/out")"
done
[ "$n" -ge 12 ] || fail "only $n headers were damaged"

# The example of the documentation, every warning an error.
python=${PYTHON:-python3}
if "$python" -c 'import h5py, xarray, numpy' 2>/dev/null; then
    awk '/^```python/ { on = 1; next } /^```/ { on = 0 } on' docs/interchange.md >"$dir/example.py"
    [ "$(grep -c . "$dir/example.py")" -le 15 ] || fail "the example has more than 15 lines"
    expect 0 "nat/token" "$python" -W error "$dir/example.py" "$dir/run.h5"
    loss=$("$spkv" show "$dir/run.h5" | sed -n 's/.* \([0-9.]*\) nat per token.*/\1/p')
    grep -q "loss $loss nat/token" "$dir/out" || fail "Python says \"$(tail -n 1 "$dir/out")\", spkv $loss"
else
    echo "SKIP the Python example of docs/interchange.md: no h5py, xarray and numpy for $python"
fi
exit $failed
