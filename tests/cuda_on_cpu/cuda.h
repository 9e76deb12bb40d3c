/* cuda.h - stands in for the few calls of the CUDA driver that map memory ahead of need. */
#ifndef SPKV_CUDA_ON_CPU_CUDA_H
#define SPKV_CUDA_ON_CPU_CUDA_H

#include <stddef.h>
#include <stdint.h>

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2 };
typedef uintptr_t CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;

enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0 };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };

struct CUmemLocation {
    CUmemLocationType type;
    int id;
};

struct CUmemAllocationProp {
    CUmemAllocationType type;
    struct CUmemLocation location;
};

struct CUmemAccessDesc {
    struct CUmemLocation location;
    CUmemAccess_flags flags;
};

#endif
