// Products and transposition of the small matrices of one tile.
#pragma once

#include "vector_math.h"

namespace ccnn_geo {

// kMaxRows x kMaxVectors accumulators and their operands fill the registers. kGroup vectors of
// edges are evaluated at once. Both were tuned on AVX-512 and AVX2.
constexpr int kMaxRows = 6;
#if defined(CPU_CAPABILITY_AVX512) || defined(__aarch64__)
constexpr int kMaxVectors = 4, kGroup = 4;
#else
constexpr int kMaxVectors = 2, kGroup = 2;
#endif

// The left operand of a product: entry (row, step) is data[row * row_stride + step * step_stride].
template <typename T>
struct Left {
  const T* data;
  int64_t row_stride, step_stride;
};

// The right operand of a product: entry (step, column) is data[step * stride + column].
template <typename T>
struct Right {
  const T* data;
  int64_t stride;
};

template <typename T, int kRows, int kVectors, typename Finish>
inline void gemm_block(
    const Left<T>& left, const Right<T>& right, int64_t row, int64_t column, int64_t steps,
    const Finish& finish) {
  Vec<T> sum[kRows][kVectors];
  const T* a = left.data + row * left.row_stride;
  const T* b = right.data + column;
  for (int64_t step = 0; step < steps; ++step) {
    Vec<T> values[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      values[v] = Vec<T>::loadu(b + v * kLanes<T>);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> factor(a[r * left.row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = at::vec::fmadd(factor, values[v], sum[r][v]);
      }
    }
    a += left.step_stride;
    b += right.stride;
  }
  finish(row, column, sum);
}

template <typename T, int kVectors, int kRows, typename Finish>
inline void gemm_rows(
    const Left<T>& left, const Right<T>& right, int64_t row, int64_t rows, int64_t column,
    int64_t steps, const Finish& finish) {
  if (rows == kRows) {
    gemm_block<T, kRows, kVectors>(left, right, row, column, steps, finish);
  } else if constexpr (kRows > 1) {
    gemm_rows<T, kVectors, kRows - 1>(left, right, row, rows, column, steps, finish);
  }
}

template <typename T, int kVectors, typename Finish>
void gemm_panel(
    const Left<T>& left, const Right<T>& right, int64_t rows, int64_t column, int64_t vectors,
    int64_t steps, const Finish& finish) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      gemm_panel<T, kVectors - 1>(left, right, rows, column, vectors, steps, finish);
      return;
    }
  }
  const int64_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t block = 0; block < blocks; ++block) {
    // Blocks of nearly equal height: too few rows cannot hide the latency of additions.
    const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
    gemm_rows<T, kVectors, kMaxRows>(left, right, begin, end - begin, column, steps, finish);
  }
}

// Multiplies `rows` x `steps` by `steps` x (`vectors` SIMD vectors). Calls `finish(row, column,
// sums)` for every block of the product while it is in registers.
template <typename T, typename Finish>
void gemm(
    const Left<T>& left, const Right<T>& right, int64_t rows, int64_t vectors, int64_t steps,
    const Finish& finish) {
  const int64_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t begin = vectors * panel / panels, end = vectors * (panel + 1) / panels;
    gemm_panel<T, kMaxVectors>(
        left, right, rows, begin * kLanes<T>, end - begin, steps, finish);
  }
}

// Writes a block of a product.
template <typename T>
struct Store {
  T* data;
  int64_t stride;

  template <int kRows, int kVectors>
  void operator()(int64_t row, int64_t column, Vec<T> (&sum)[kRows][kVectors]) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v].store(data + (row + r) * stride + column + v * kLanes<T>);
      }
    }
  }
};

// Adds a block of a product to a matrix.
template <typename T>
struct Add {
  T* data;
  int64_t stride;

  template <int kRows, int kVectors>
  void operator()(int64_t row, int64_t column, Vec<T> (&sum)[kRows][kVectors]) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        T* place = data + (row + r) * stride + column + v * kLanes<T>;
        (Vec<T>::loadu(place) + sum[r][v]).store(place);
      }
    }
  }
};

// Transposes `rows` x `columns`, both multiples of the vector length.
//
// Interleaving row i with row i + n/2 is a perfect shuffle; log2(n) of them transpose n x n.
template <typename T>
void transpose(
    const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns) {
  constexpr int kSize = static_cast<int>(kLanes<T>);
  for (int64_t row = 0; row < rows; row += kSize) {
    for (int64_t column = 0; column < columns; column += kSize) {
      Vec<T> block[kSize], shuffled[kSize];
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        block[i] = Vec<T>::loadu(from + (row + i) * from_stride + column);
      }
#pragma GCC unroll 4
      for (int stage = 1; stage < kSize; stage *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < kSize / 2; ++i) {
          const auto pair = at::vec::interleave2(block[i], block[i + kSize / 2]);
          shuffled[2 * i] = pair.first;
          shuffled[2 * i + 1] = pair.second;
        }
#pragma GCC unroll 16
        for (int i = 0; i < kSize; ++i) {
          block[i] = shuffled[i];
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        block[i].store(to + (column + i) * to_stride + row);
      }
    }
  }
}

}  // namespace ccnn_geo
