// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/optim/averaging_functions.h>

namespace lockstep::optim {
namespace {

bool can_interpolate(const at::Tensor& tensor) {
  return tensor.is_floating_point() || tensor.is_complex();
}

/// One tensor after the other, which rounds otherwise than interpolation does.
void move_to_mean(at::TensorList averaged, at::TensorList current, std::int64_t num_averaged) {
  const at::Tensor count =
      at::scalar_tensor(num_averaged + 1, averaged.front().options().dtype(at::kLong));
  for (std::size_t i = 0; i < averaged.size(); ++i) {
    averaged[i].copy_(averaged[i] + (current[i] - averaged[i]) / count);
  }
}

}  // namespace

MultiAvgFn get_ema_multi_avg_fn(double decay) {
  TORCH_CHECK(decay >= 0 && decay <= 1, "get_ema_multi_avg_fn: the decay is ", decay,
              "; it must be from 0 to 1");
  return [decay](at::TensorList averaged, at::TensorList current, std::int64_t /*num_averaged*/) {
    const at::NoGradGuard no_gradients;
    if (can_interpolate(averaged.front())) {
      at::_foreach_lerp_(averaged, current, 1 - decay);
      return;
    }
    for (std::size_t i = 0; i < averaged.size(); ++i) {
      averaged[i].copy_(averaged[i] * decay + current[i] * (1 - decay));
    }
  };
}

MultiAvgFn get_swa_multi_avg_fn() {
  return [](at::TensorList averaged, at::TensorList current, std::int64_t num_averaged) {
    const at::NoGradGuard no_gradients;
    if (!can_interpolate(averaged.front())) {
      move_to_mean(averaged, current, num_averaged);
      return;
    }
    // Python divides a tensor of whole numbers, and so rounds the weight to float.
    const float weight = 1.0F / static_cast<float>(num_averaged + 1);
    at::_foreach_lerp_(averaged, current, static_cast<double>(weight));
  };
}

MultiAvgFn get_swa_avg_fn() {
  return [](at::TensorList averaged, at::TensorList current, std::int64_t num_averaged) {
    const at::NoGradGuard no_gradients;
    move_to_mean(averaged, current, num_averaged);
  };
}

}  // namespace lockstep::optim
