# spkv - profile, record and shorten KV caches. `make help` lists the targets.

BUILD   ?= build
CC      ?= cc
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
BUILD   := $(BUILD)/san-$(subst $(comma),-,$(SAN))
SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif

HDF5    := $(shell $(PKG_CONFIG) --exists hdf5-serial 2>/dev/null && echo hdf5-serial || echo hdf5)
PACKAGES := $(HDF5) libpng jansson libpcre2-8 libutf8proc zlib libzstd libxxhash
CPPFLAGS += -I. -D_GNU_SOURCE -DPCRE2_CODE_UNIT_WIDTH=8 -DH5_USE_110_API $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
LDLIBS  += $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null) -lhdf5_hl -ldnnl -lm
STD     := -std=c11 -fopenmp -ffp-contract=off

LAYERS  := base kernels engine datasets analyze reports
LIB_SRC := $(sort $(foreach d,$(LAYERS),$(shell find $(d) -name '*.c')))
CLI_SRC := $(sort $(wildcard cli/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/obj/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/obj/%.o)
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
TEST_HELPERS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(wildcard tests/test_*.c tests/fuzz_*.c),$(wildcard tests/*.c)))
PROGRAM := $(BUILD)/spkv

.PHONY: all
all: $(PROGRAM) ## build build/spkv

$(PROGRAM): $(CLI_OBJ) $(BUILD)/libspkv.a
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libspkv.a: $(LIB_OBJ)
	@echo "  AR   $@"
	@rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) $(STD) $(CPPFLAGS) $(CFLAGS) $(WARNINGS) $(SANFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_HELPERS) $(BUILD)/libspkv.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -fopenmp $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

.PHONY: tests
tests: $(TESTS) $(PROGRAM)

.PHONY: clean
clean: ## remove everything that was built
	rm -rf build

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

-include $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(wildcard $(BUILD)/obj/tests/*.d)
.SECONDARY:
