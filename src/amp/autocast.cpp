// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <lockstep/amp/autocast.h>
#include <lockstep/core/logging.h>

#include <memory>

namespace lockstep::amp {
namespace {

/// The dtype to compute in, if all is in order.
at::ScalarType checked_dtype(at::DeviceType device, std::optional<at::ScalarType> dtype,
                             bool is_enabled) {
  TORCH_CHECK(device == at::kCPU || device == at::kCUDA, "autocast: the device is ",
              c10::DeviceTypeName(device, /*lower_case=*/true), "; it must be kCPU or kCUDA");
  const at::ScalarType chosen = dtype.value_or(at::autocast::get_autocast_dtype(device));
  TORCH_CHECK(!is_enabled || chosen == at::kBFloat16 || chosen == at::kHalf,
              "autocast: the dtype is ", chosen, "; on ",
              c10::DeviceTypeName(device, /*lower_case=*/true),
              " it must be BFloat16 or Half. To compute in the dtype of the inputs, pass enabled "
              "as false");
  return chosen;
}

bool is_usable(at::DeviceType device) {
  if (device == at::kCPU || at::hasCUDA()) return true;
  logging::warning("autocast: this machine has no CUDA device; nothing is converted");
  return false;
}

/// Comes before each function of a backward. Weights change between a backward and the next
/// forward, and no version counts what LibTorch's optimizers write.
std::unique_ptr<at::ObserverContext> let_go(const at::RecordFunction& /*function*/) {
  at::autocast::clear_cache();
  return nullptr;
}

}  // namespace

autocast::autocast(at::DeviceType device, std::optional<at::ScalarType> dtype, bool enabled,
                   bool cache_enabled)
    : device_(device) {
  const at::ScalarType chosen = checked_dtype(device, dtype, enabled);
  const bool is_enabled = enabled && is_usable(device);
  was_enabled_ = at::autocast::is_autocast_enabled(device);
  dtype_before_ = at::autocast::get_autocast_dtype(device);
  was_cache_enabled_ = at::autocast::is_autocast_cache_enabled();
  if (cache_enabled) {
    backward_listener_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&let_go).scopes({at::RecordScope::BACKWARD_FUNCTION}));
  }
  at::autocast::set_autocast_enabled(device, is_enabled);
  at::autocast::set_autocast_dtype(device, chosen);
  at::autocast::increment_nesting();
  at::autocast::set_autocast_cache_enabled(cache_enabled);
  // What another guard keeps may have another dtype: the cache looks at the weight alone.
  at::autocast::clear_cache();
}

autocast::~autocast() {
  at::autocast::decrement_nesting();
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, dtype_before_);
  at::autocast::set_autocast_cache_enabled(was_cache_enabled_);
  if (backward_listener_) at::removeCallback(*backward_listener_);
}

}  // namespace lockstep::amp
