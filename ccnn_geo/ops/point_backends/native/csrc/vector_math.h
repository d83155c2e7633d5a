// Elementary functions on ATen's SIMD vectors.
#pragma once

#include <ATen/cpu/vec/vec.h>

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace ccnn_geo {

template <typename T>
using Vec = at::vec::Vectorized<T>;

template <typename T>
constexpr int64_t kLanes = Vec<T>::size();

constexpr int64_t round_up(int64_t size, int64_t step) {
  return (size + step - 1) / step * step;
}

// Flushes denormal numbers to zero during its lifetime. Gaussians decay to denormal numbers, which
// take many processors a hundred cycles each.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
};

// Minimax polynomials, lowest power first, computed with the Remez algorithm in 60 digits.
//   exp2:  2^r on |r| <= 1/2, relative error 1.9e-9 (float), 3.1e-18 (double)
//   sine:  sin(pi r) / r in r^2 on |r| <= 1/2, relative error 5.3e-9, 2.6e-19
//   cosine: cos(pi r) in r^2 on |r| <= 1/2, absolute error 4.7e-8, 6.4e-21
template <typename T>
struct Coefficients;

template <>
struct Coefficients<float> {
  using Integer = int32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr float kLargestExponent = 126.0f;
  static constexpr float exp2[] = {
      1.00000000055f, 0.693147205737f, 0.240226468905f, 0.0555032877726f,
      0.00961848897032f, 0.00133999311447f, 0.000153458084916f};
  static constexpr float sine[] = {
      3.1415926369f, -5.1677096848f, 2.55006972637f, -0.598242126693f, 0.0775603875881f};
  static constexpr float cosine[] = {
      0.999999953467f, -4.93479285868f, 4.05841191414f, -1.33188016053f, 0.219696796467f};
};

template <>
struct Coefficients<double> {
  using Integer = int64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr double kLargestExponent = 1022.0;
  static constexpr double exp2[] = {
      0.9999999999999999971, 0.69314718055994533046, 0.24022650695910156197,
      0.055504108664819921631, 0.009618129107588337981, 0.0013333558146789925414,
      0.00015403530462511072903, 0.000015252733489976357879, 1.3215433091311963824e-6,
      1.0178198029683782125e-7, 7.0741053410117811718e-9, 4.4352811548036602157e-10};
  static constexpr double sine[] = {
      3.1415926535897932377, -5.1677127800499695287, 2.5501640398772939409,
      -0.59926452931873827529, 0.082145886569893267104, -0.0073704304787667102403,
      0.00046629968878968515788, -0.000021903185457117387715, 7.6947276763007514918e-7};
  static constexpr double cosine[] = {
      0.99999999999999999999, -4.9348022005446793043, 4.0587121264167675451,
      -1.3352627688545550123, 0.2353306303579960081, -0.025806891376604406879,
      0.0019295741873590490068, -0.00010463741712584956799, 4.300724831428877487e-6,
      -1.3435271574798271826e-7};
};

template <typename T, size_t kSize>
inline Vec<T> polynomial(const T (&coefficients)[kSize], const Vec<T>& x) {
  Vec<T> sum(coefficients[kSize - 1]);
#pragma GCC unroll 16
  for (int power = static_cast<int>(kSize) - 2; power >= 0; --power) {
    sum = at::vec::fmadd(sum, x, Vec<T>(coefficients[power]));
  }
  return sum;
}

// Reinterprets the bits of a vector as another type of the same width.
template <typename To, typename From>
inline Vec<To> reinterpret(const Vec<From>& from) {
  static_assert(sizeof(Vec<To>) == sizeof(Vec<From>), "vectors of equal width");
  Vec<To> to;
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(to));
  return to;
}

// Returns 2^-decay for decay >= 0, and at least the smallest normal number.
template <typename T>
inline Vec<T> exp2_of_minus(const Vec<T>& decay) {
  using C = Coefficients<T>;
  using Int = typename C::Integer;
  const Vec<T> clamped = at::vec::clamp_max(decay, Vec<T>(C::kLargestExponent));
  const Vec<T> whole = clamped.round();
  const Vec<Int> exponent = at::vec::convert_to_int_of_same_size(whole)
      << Vec<Int>(C::kMantissaBits);
  return reinterpret<T>(
      reinterpret<Int>(polynomial(C::exp2, whole - clamped)) - exponent);
}

template <typename T>
struct Wave {
  Vec<T> sine, cosine;
};

// Returns 2^-decay times the sine and the cosine of an angle in half turns.
//
// The reduction of half turns to |r| <= 1/2 is exact: the only error is the rounding of the angle
// itself. An odd number of half turns flips the sign of both, which is part of the same integer
// addition as the exponent of the envelope. The compiler removes an unused cosine.
template <typename T>
inline Wave<T> damped_wave(const Vec<T>& decay, const Vec<T>& half_turns) {
  using C = Coefficients<T>;
  using Int = typename C::Integer;
  const Vec<T> clamped = at::vec::clamp_max(decay, Vec<T>(C::kLargestExponent));
  const Vec<T> whole = clamped.round();
  const Vec<T> turns = half_turns.round();
  const Vec<T> rest = half_turns - turns;
  const Vec<T> square = rest * rest;
  const Vec<Int> exponent = at::vec::convert_to_int_of_same_size(whole)
      << Vec<Int>(C::kMantissaBits);
  const Vec<Int> sign = at::vec::convert_to_int_of_same_size(turns)
      << Vec<Int>(static_cast<Int>(8 * sizeof(T) - 1));
  const Vec<Int> fraction = reinterpret<Int>(polynomial(C::exp2, whole - clamped));
  const Vec<T> envelope = reinterpret<T>(fraction + (sign - exponent));
  return {envelope * (rest * polynomial(C::sine, square)),
          envelope * polynomial(C::cosine, square)};
}

}  // namespace ccnn_geo
