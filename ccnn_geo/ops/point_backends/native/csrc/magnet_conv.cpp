// The C entry points, see magnet_conv.h.
//
// Compiled twice, with CCNN_GEO_SCALAR=float and with CCNN_GEO_SCALAR=double.
#include "backward.h"
#include "forward.h"

namespace {

using namespace ccnn_geo;

template <typename Body>
int32_t status_of(const Body& body) {
  try {
    body();
    return kCcnnGeoDone;
  } catch (const std::bad_alloc&) {
    return kCcnnGeoOutOfMemory;
  } catch (const std::out_of_range&) {
    return kCcnnGeoBadIndex;
  } catch (...) {
    return kCcnnGeoFailed;
  }
}

}  // namespace

#define CCNN_GEO_JOIN(name, scalar) name##_##scalar
#define CCNN_GEO_NAME(name, scalar) CCNN_GEO_JOIN(name, scalar)

using T = CCNN_GEO_SCALAR;

int32_t CCNN_GEO_NAME(ccnn_geo_forward, CCNN_GEO_SCALAR)(
    const CcnnGeoCall* call, void* output, void* moment) {
  return status_of([&] {
    forward(Problem<T>(*call), static_cast<T*>(output), static_cast<T*>(moment));
  });
}

int32_t CCNN_GEO_NAME(ccnn_geo_backward, CCNN_GEO_SCALAR)(
    const CcnnGeoCall* call, const void* grad_output, const void* grad_moment,
    const CcnnGeoGradients* out) {
  return status_of([&] {
    backward(
        Problem<T>(*call), static_cast<const T*>(grad_output), static_cast<const T*>(grad_moment),
        Gradients<T>(*out));
  });
}
