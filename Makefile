# spkv - profile, record and shorten KV caches. `make help` lists the targets.

# Compile on all cores unless the caller says how many.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif

BUILD   ?= build
CC      ?= cc
CXX     ?= c++
CFLAGS  ?= -O2 -g
PKG_CONFIG ?= pkg-config
CUDA    ?= auto
MPI     ?= auto
SAN     ?=
DEBUG   ?= 0
prefix  ?= /usr/local
bindir  ?= $(prefix)/bin

WARNINGS := -Wall -Wextra -Wshadow -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wundef -Wvla
ifdef CI
WARNINGS += -Werror
endif
ifeq ($(DEBUG),1)
override CFLAGS := -O0 -g3
endif
ifneq ($(SAN),)
# Sanitized objects live in a tree of their own, so that switching does not rebuild everything twice.
comma   := ,
override BUILD := $(BUILD)/san-$(subst $(comma),-,$(SAN))
SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
CFLAGS  := -O1 -g1 # half the time to compile, and lines in reports
endif

HDF5    := $(shell $(PKG_CONFIG) --exists hdf5-serial 2>/dev/null && echo hdf5-serial || echo hdf5)
PACKAGES := $(HDF5) libpng jansson libpcre2-8 libutf8proc zlib libzstd libxxhash cairo
CPPFLAGS += -I. -D_GNU_SOURCE -DPCRE2_CODE_UNIT_WIDTH=8 -DH5_USE_110_API
CPPFLAGS += $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
LDLIBS  += $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null) -lhdf5_hl -ldnnl -lm
# Nothing reads errno after a function of math.h; without it square roots vectorise.
STD     := -std=c11 -fopenmp -ffp-contract=off -fno-math-errno

LAYERS  := base kernels engine train datasets analyze reports
LIB_SRC := $(sort $(foreach d,$(LAYERS),$(shell find $(d) -name '*.c')))
ifneq ($(findstring fuzzer,$(SAN)),)
# For libFuzzer: clang may lack the run time of OpenMP, and parsers need no kernels.
LIB_SRC := $(filter-out kernels/%,$(LIB_SRC)) kernels/kv_cache.c
WARNINGS += -Wno-pass-failed # clang says where it did not vectorise
FUZZ_MAIN := -fsanitize=fuzzer
else
FUZZ_MAIN = $(BUILD)/obj/tests/fuzz/replay.o -fopenmp
endif
CUDA_SRC := $(sort $(wildcard kernels/cuda/*.cu))
ifeq ($(CUDA),1)
# One object holds the machine code of every GPU that the toolkit knows among these, and portable code for later ones.
NVCC      ?= $(or $(shell command -v nvcc),/usr/local/cuda/bin/nvcc)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(NVCC))
CUDA_ARCHS ?= 80 89 90 100 120
CUDA_CODES := $(filter $(CUDA_ARCHS:%=sm_%),$(shell $(NVCC) --list-gpu-code))
CUDA_GENCODE := $(foreach c,$(CUDA_CODES:sm_%=%),-gencode arch=compute_$(c),code=sm_$(c))
CUDA_GENCODE += $(foreach c,$(lastword $(CUDA_CODES:sm_%=%)),-gencode arch=compute_$(c),code=compute_$(c))
LDLIBS  += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -ldl -lrt -lpthread -lstdc++
LIB_SRC := $(filter-out kernels/cuda/absent.c,$(LIB_SRC)) $(CUDA_SRC)
endif
CLI_SRC := $(sort $(wildcard cli/*.c))
LIB_OBJ := $(patsubst %,$(BUILD)/obj/%.o,$(basename $(LIB_SRC)))
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/obj/%.o)
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
TEST_HELPERS := $(filter-out $(wildcard tests/test_*.c tests/fuzz_*.c tests/bench_*.c),$(wildcard tests/*.c))
TEST_HELPERS := $(TEST_HELPERS:%.c=$(BUILD)/obj/%.o)
COMMON  := $(BUILD)/libtest.a $(BUILD)/libspkv.a
PROGRAM := $(BUILD)/spkv

.PHONY: all
all: $(PROGRAM) ## build build/spkv

$(PROGRAM): $(CLI_OBJ) $(BUILD)/libspkv.a
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libspkv.a: $(LIB_OBJ) $(BUILD)/with_cuda
	@echo "  AR   $@"
	@rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)

# A build with CUDA and one without share their objects.
$(BUILD)/with_cuda: FORCE
	@mkdir -p $(@D)
	@echo '$(filter 1,$(CUDA))' | cmp -s - $@ || echo '$(filter 1,$(CUDA))' > $@

$(BUILD)/obj/%.o: %.cu Makefile
	@mkdir -p $(@D)
	@echo "  NVCC $<"
	@$(NVCC) -ccbin $(CXX) -std=c++20 -O3 -lineinfo $(CUDA_GENCODE) -Xptxas -v -I. -D_GNU_SOURCE -MMD -MP -c -o $@ $< \
	    >$(@:.o=.ptxas) 2>&1; status=$$?; grep -v '^ptxas info\|bytes stack frame' $(@:.o=.ptxas) >&2; exit $$status

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(WARNINGS) $(SANFLAGS) -MMD -MP -c -o $@ $<

# The CUDA backend on the host (tests/cuda_on_cpu/cuda_runtime.h): one object that shows nothing but what tests call, so that
# it can stand beside the real one.
EMULATED := $(CUDA_SRC) $(wildcard tests/cuda_on_cpu/*.cpp tests/cuda_on_cpu/*.cu)
EMULATED := $(patsubst %,$(BUILD)/obj/emulated/%.o,$(basename $(EMULATED)))
EMULATED_FLAGS = -std=c++20 -x c++ -fno-exceptions -fno-rtti -fno-threadsafe-statics -fopenmp-simd -ffp-contract=off \
                 -fno-math-errno -Wall -Wshadow -Wno-deprecated-enum-enum-conversion -Wno-unknown-pragmas $(if $(CI),-Werror)

$(EMULATED): $(BUILD)/obj/emulated/%.o: Makefile
	@mkdir -p $(@D)
	@echo "  CXX  $(wildcard $*.cu $*.cpp)"
	@$(CXX) $(EMULATED_FLAGS) -Itests/cuda_on_cpu $(CPPFLAGS) $(CFLAGS) $(SANFLAGS) -MMD -MP -c -o $@ $(wildcard $*.cu $*.cpp)

$(BUILD)/emulated.o: $(EMULATED)
	@$(CC) -r -nostdlib -o $@.all $^
	@objcopy --wildcard --keep-global-symbol='cuda_on_cpu_*' --keep-global-symbol=ops_cuda_emulated $@.all $@
	@rm $@.all

$(BUILD)/libtest.a: $(TEST_HELPERS) $(BUILD)/emulated.o
	@rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(COMMON)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

# The style sheet and the script of report pages, and what their security policy says of them: SHA-256 in base64.
sha256 = 'sha256-$(shell env printf "$$(sha256sum $(1) | cut -c 1-64 | sed 's/../\\x&/g')" | base64)'
$(BUILD)/obj/reports/page_assets.o: reports/page.css reports/page.js
$(BUILD)/obj/reports/page_assets.o: CPPFLAGS += -DPAGE_STYLE_HASH="\"$(call sha256,reports/page.css)\"" \
                                                -DPAGE_SCRIPT_HASH="\"$(call sha256,reports/page.js)\""

# The commit of the build, in one object.
COMMIT  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
$(BUILD)/obj/cli/cli.o: CPPFLAGS += -DSPKV_COMMIT='"$(COMMIT)"'
$(BUILD)/obj/cli/cli.o: $(BUILD)/commit
$(BUILD)/commit: FORCE
	@mkdir -p $(@D)
	@echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
.PHONY: FORCE
FORCE:

.PHONY: deps
deps: ## install the packages that are missing
	@scripts/install-deps

.PHONY: cuda-kernels
cuda-kernels: $(LIB_OBJ) ## CUDA=1: registers, spills and shared memory of every kernel, docs/results/cuda_kernels.csv
	@scripts/cuda-kernels docs/results/cuda_kernels.csv $(CUDA_SRC:%.cu=$(BUILD)/obj/%.ptxas)

.PHONY: parts
parts: ## say which optional parts this machine can build (CUDA=auto|0|1 MPI=auto|0|1)
	@scripts/probe-part cuda $(CUDA)
	@scripts/probe-part mpi $(MPI)

.PHONY: demo
demo: deps ## install what is missing, build, profile the shipped model and show the report
	@$(MAKE) --no-print-directory parts all
	@scripts/demo $(PROGRAM) build/demo

.PHONY: palindrome
palindrome: deps ## train the palindrome test (5 seeds, four kinds of attention); resumes
	@$(MAKE) --no-print-directory parts all
	@scripts/palindrome $(PROGRAM) build/palindrome

# Programs that read files of strangers run under the sanitizers too.
SAN_TESTS := predictor rope safetensors config checkpoint tokenizer corpus rows recall palindrome ruler \
             answer exercise chat sequences \
             sequence_ids profile layout statistics kv_cache ref ops session token_class report lora heatmap page \
             figure terminal safetensors_write schedule init state train_log train_ref attend_ref train_ops \
             attend_ops training_curves batches bootstrap recommendation interchange paired rank candidates tokens eval \
             policies eviction evict_ops cuda_on_cpu
FUZZERS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/fuzz_*.c)))

.PHONY: test
test: deps ## install what is missing, build and run all tests
	@$(MAKE) --no-print-directory parts tests
	@scripts/check-includes
	@scripts/run-tests $(wildcard tests/*.sh) $(TESTS)
	@scripts/kill-test 4 8000 $(PROGRAM) $(BUILD)/tests/tools/run_equal datasets/demo/model build/kill
	@$(MAKE) --no-print-directory SAN=address,undefined test-sanitized

.PHONY: tests
tests: $(PROGRAM) $(TESTS) $(BUILD)/tests/tools/run_equal

# What opens every backend of tests/backends.h, and whole models.
BACKEND_TESTS := ops ops_weights ops_cache products model cuda_on_cpu
BACKEND_TESTS := $(BACKEND_TESTS:%=$(BUILD)/tests/test_%)

.PHONY: test-cuda-emulated
test-cuda-emulated: export SPKV_TEST_FULL = 1
test-cuda-emulated: $(BACKEND_TESTS) ## the CUDA backend on the CPU, all shapes
	@TEST_SECONDS=3600 scripts/run-tests $^
	@$(MAKE) --no-print-directory SAN=address,undefined test-cuda-sanitized

.PHONY: test-cuda-sanitized
test-cuda-sanitized: export LSAN_OPTIONS = suppressions=tests/lsan.supp:print_suppressions=0
test-cuda-sanitized: $(BACKEND_TESTS)
	@TEST_SECONDS=3600 scripts/run-tests $^

.PHONY: test-cuda
test-cuda: ## tests of the CUDA backend on a GPU; SKIP and why without one
	@scripts/test-cuda

.PHONY: bench-cuda
bench-cuda: ## speed on a GPU, docs/results/speed_cuda.csv; SKIP and why without one
	@scripts/bench-cuda

.PHONY: test-kill
test-kill: tests ## kill -9 a recording run 50 times at random moments and compare
	@scripts/kill-test $(or $(KILLS),50) 40000 $(PROGRAM) $(BUILD)/tests/tools/run_equal datasets/demo/model build/kill

.PHONY: test-browser
test-browser: $(PROGRAM) ## a report page in headless Chromium; pictures in build/browser
	@status=0; scripts/test-browser $(PROGRAM) build/browser || status=$$?; [ $$status -eq 0 ] || [ $$status -eq 77 ]

.PHONY: test-sanitized
test-sanitized: export LSAN_OPTIONS = suppressions=tests/lsan.supp:print_suppressions=0
test-sanitized: export OMP_NUM_THREADS = 2
test-sanitized: $(filter $(SAN_TESTS:%=$(BUILD)/tests/test_%),$(TESTS)) $(FUZZERS)
	@scripts/run-tests $(filter $(BUILD)/tests/test_%,$^)
	@scripts/replay-corpora $(FUZZERS)

$(BUILD)/tests/tools/%: $(BUILD)/obj/tests/tools/%.o $(BUILD)/libspkv.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/fuzz_%: $(BUILD)/obj/tests/fuzz_%.o $(BUILD)/obj/tests/fuzz/replay.o $(BUILD)/libspkv.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $< $(FUZZ_MAIN) $(BUILD)/libspkv.a $(LDLIBS)

.PHONY: fuzz
fuzz: deps ## fuzz every parser with libFuzzer (needs clang; FUZZ_SECONDS=60 each)
	@command -v clang >/dev/null || { echo "fuzz: needs clang with libFuzzer (Debian: clang libclang-rt-14-dev)" >&2; exit 1; }
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined fuzz-built

.PHONY: fuzz-built
fuzz-built: $(FUZZERS)
	@scripts/fuzz $(or $(FUZZ_SECONDS),60) build/fuzz $(FUZZERS)

.PHONY: install
install: all ## install build/spkv under $(prefix)
	install -d $(DESTDIR)$(bindir)
	install -m 755 $(PROGRAM) $(DESTDIR)$(bindir)/spkv

.PHONY: uninstall
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(bindir)/spkv

.PHONY: clean
clean: ## remove everything that was built
	rm -rf build

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

-include $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(EMULATED:.o=.d) $(wildcard $(BUILD)/obj/tests/*.d)
.SECONDARY:
