// The binary interface of the native backend, called through ctypes.
//
// It consists of plain C structures of sizes and pointers: of PyTorch, only the vector headers are
// needed. All arrays are contiguous. `void*` is float* or double*, see the name of the function. A
// null pointer is an absent operand or a gradient that is not requested.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define CCNN_GEO_EXPORT __attribute__((visibility("default")))
#else
#define CCNN_GEO_EXPORT
#endif

extern "C" {

struct CcnnGeoCall {
  int64_t sources, targets, dim, channels, layers, width;
  int64_t slots;    // length of `index`
  int64_t degree;   // slots per target where there is no `pointer`
  int64_t threads;  // most threads to use
  int64_t buffer_bytes;  // most memory for gradients of sources that are not yet summed
  const int64_t* index;
  const int64_t* pointer;
  const double* source;  // [sources, dim]; offsets are computed in double and then rounded
  const double* target;  // [targets, dim]
  const void* x;               // [sources, channels]
  const void* bounds;          // [2, dim]
  const void* inverse_sigma;   // [dim]
  const void* centers;         // [layers, width, dim]
  const void* inverse_widths;  // [layers, width, dim]
  const void* frequencies;     // [layers, width, dim]
  const void* phases;          // [layers, width]
  const void* weights;         // [layers - 1, width, width]
  const void* biases;          // [layers - 1, width]
  const void* readout;         // [channels, width + 1] or null
};

// The gradients that backward writes, in the shapes of the operands.
struct CcnnGeoGradients {
  void *x, *source, *target, *inverse_sigma;
  void *centers, *inverse_widths, *frequencies, *phases, *weights, *biases, *readout;
};

enum CcnnGeoStatus : int32_t {
  kCcnnGeoDone = 0,
  kCcnnGeoOutOfMemory = 1,
  kCcnnGeoBadIndex = 2,  // an entry of `index` or `pointer` is out of range
  kCcnnGeoFailed = 3,
};

CCNN_GEO_EXPORT int32_t ccnn_geo_forward_float(const CcnnGeoCall*, void* output, void* moment);
CCNN_GEO_EXPORT int32_t ccnn_geo_forward_double(const CcnnGeoCall*, void* output, void* moment);
CCNN_GEO_EXPORT int32_t ccnn_geo_backward_float(
    const CcnnGeoCall*, const void* grad_output, const void* grad_moment, const CcnnGeoGradients*);
CCNN_GEO_EXPORT int32_t ccnn_geo_backward_double(
    const CcnnGeoCall*, const void* grad_output, const void* grad_moment, const CcnnGeoGradients*);
}
