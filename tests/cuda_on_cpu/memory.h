/* memory.h - device memory of the emulation: out of reach of the host unless opened. Nested openings are not needed. */
#ifndef SPKV_CUDA_ON_CPU_MEMORY_H
#define SPKV_CUDA_ON_CPU_MEMORY_H

void memory_open(void);
void memory_close(void);

#endif
