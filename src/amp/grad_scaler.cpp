// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/autocast_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <lockstep/amp/grad_scaler.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <unordered_set>
#include <utility>

#include "amp/scale_agreement.h"
#include "optim/tensor_groups.h"

namespace lockstep::amp {
namespace {

constexpr const char* kScale = "scale";
constexpr const char* kGrowthFactor = "growth_factor";
constexpr const char* kBackoffFactor = "backoff_factor";
constexpr const char* kGrowthInterval = "growth_interval";
constexpr const char* kGrowthTracker = "_growth_tracker";

void check_scale(double scale) {
  TORCH_CHECK(scale <= std::numeric_limits<float>::max() && static_cast<float>(scale) > 0,
              "GradScaler: the scale is ", scale, "; it must be positive and finite as a float");
}
void check_growth_factor(double factor) {
  TORCH_CHECK(factor > 1 && std::isfinite(factor), "GradScaler: growth_factor is ", factor,
              "; it must be above 1");
}
void check_backoff_factor(double factor) {
  TORCH_CHECK(factor > 0 && factor < 1, "GradScaler: backoff_factor is ", factor,
              "; it must be between 0 and 1");
}
void check_growth_interval(std::int64_t interval) {
  TORCH_CHECK(interval >= 1 && interval <= std::numeric_limits<std::int32_t>::max(),
              "GradScaler: growth_interval is ", interval, "; it must be from 1 to 2^31 - 1");
}

at::Tensor move_to(const at::Tensor& tensor, at::Device device) {
  return tensor.to(tensor.options().device(device), /*non_blocking=*/true);
}

/// The tensors with the gradients' values. Of a sparse one, these are not coalesced, as in Python.
std::vector<at::Tensor> gradients_of(const torch::optim::Optimizer& optimizer) {
  std::vector<at::Tensor> gradients;
  std::unordered_set<const void*> seen;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const at::Tensor& gradient = parameter.grad();
      if (!gradient.defined() || !seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
      TORCH_CHECK(gradient.scalar_type() != at::kHalf, "GradScaler: a gradient of shape ",
                  gradient.sizes(),
                  " is in Half, where small values have become 0 already. Keep the parameters in "
                  "float and convert by autocast");
      gradients.push_back(gradient.is_sparse() ? gradient._values() : gradient);
    }
  }
  return gradients;
}

/// What all have found, added up on one device.
at::Tensor sum_of(const std::vector<at::Tensor>& found_inf, at::Device device) {
  at::Tensor sum = move_to(found_inf.front(), device);
  for (std::size_t i = 1; i < found_inf.size(); ++i) sum = sum + move_to(found_inf[i], device);
  return sum;
}

template <class T>
T number_of(const std::map<std::string, at::Tensor>& state, const char* name) {
  const auto found = state.find(name);
  TORCH_CHECK(found != state.end() && found->second.defined() && found->second.numel() == 1,
              "GradScaler::load_state: the state has no number '", name, "'");
  return found->second.item<T>();
}

}  // namespace

GradScaler::GradScaler(const GradScalerOptions& options) : options_(options) {
  check_scale(options.init_scale());
  check_growth_factor(options.growth_factor());
  check_backoff_factor(options.backoff_factor());
  check_growth_interval(options.growth_interval());
}

void GradScaler::make_scale(at::Device device) {
  if (scale_.defined()) {
    if (has_scaled_ || scale_.device() == device) return;
    scale_ = move_to(scale_, device);  // made where nothing was known about devices yet
    growth_tracker_ = move_to(growth_tracker_, device);
    return;
  }
  scale_ = at::full({}, options_.init_scale(), at::TensorOptions(device).dtype(at::kFloat));
  growth_tracker_ = at::full({}, init_growth_tracker_, at::TensorOptions(device).dtype(at::kInt));
}

at::Tensor GradScaler::scale(const at::Tensor& outputs) {
  if (!is_enabled()) return outputs;
  TORCH_CHECK(outputs.defined(), "GradScaler::scale: the tensor is undefined");
  make_scale(outputs.device());
  has_scaled_ = true;
  return outputs * move_to(scale_, outputs.device());
}

std::vector<at::Tensor> GradScaler::scale(const std::vector<at::Tensor>& outputs) {
  std::vector<at::Tensor> scaled;
  for (const at::Tensor& output : outputs) scaled.push_back(scale(output));
  return scaled;
}

GradScaler::Iteration& GradScaler::iteration_of(const torch::optim::Optimizer& optimizer) {
  for (Iteration& iteration : iterations_) {
    if (iteration.optimizer == &optimizer) return iteration;
  }
  return iterations_.emplace_back(Iteration{&optimizer});
}

/// A rank of a group may have joined without data: the ranks find out together whether one of them
/// has scaled something.
void GradScaler::check_scaled(const char* call) const {
  TORCH_CHECK(has_scaled_ || options_.group(), "GradScaler::", call,
              ": no loss has been scaled; call scale(loss).backward() first. (Where a rank joins "
              "that had no data, give GradScalerOptions the group)");
}

void GradScaler::unscale(torch::optim::Optimizer& optimizer, Iteration& iteration) {
  const at::NoGradGuard no_gradients;
  const auto gradients = gradients_of(optimizer);
  if (!scale_.defined()) {
    make_scale(gradients.empty() ? at::Device(at::kCPU) : gradients.front().device());
  }
  // In double, as a division in float may be less exact on some devices.
  const at::Tensor inverse = scale_.to(at::kDouble).reciprocal().to(at::kFloat);
  std::map<at::Device, std::pair<at::Tensor, at::Tensor>, bool (*)(at::Device, at::Device)>
      of_device([](at::Device a, at::Device b) {
        return std::pair(a.type(), a.index()) < std::pair(b.type(), b.index());
      });
  for (const auto& indices : optim::group_by_device_and_dtype(gradients)) {
    const auto some = optim::select(gradients, indices);
    auto [place, is_new] = of_device.try_emplace(some.front().device());
    auto& [found_inf, its_inverse] = place->second;
    if (is_new) {
      found_inf = at::zeros({}, at::TensorOptions(place->first).dtype(at::kFloat));
      its_inverse = move_to(inverse, place->first);
      iteration.found_inf.push_back(found_inf);
    }
    at::_amp_foreach_non_finite_check_and_unscale_(some, found_inf, its_inverse);
  }
  iteration.stage = Stage::Unscaled;
}

void GradScaler::unscale_(torch::optim::Optimizer& optimizer) {
  if (!is_enabled()) return;
  check_scaled("unscale_");
  Iteration& iteration = iteration_of(optimizer);
  TORCH_CHECK(
      iteration.stage != Stage::Unscaled,
      "GradScaler::unscale_: the gradients of this optimizer have been divided by the scale "
      "already since the last update()");
  TORCH_CHECK(iteration.stage != Stage::Stepped,
              "GradScaler::unscale_: this optimizer has stepped already since the last update()");
  unscale(optimizer, iteration);
}

bool GradScaler::agree(std::vector<at::Tensor>& found_inf) {
  // One copy to the host, whatever the device.
  std::vector<at::Tensor> numbers{scale_.to(at::kDouble), growth_tracker_.to(at::kDouble)};
  const bool has_gradients = !found_inf.empty();
  if (has_gradients) numbers.push_back(sum_of(found_inf, scale_.device()).to(at::kDouble));
  const at::Tensor on_host = at::stack(numbers).to(at::kCPU);
  const auto* number = on_host.const_data_ptr<double>();

  ScaleReport own;
  own.found_inf = has_gradients && number[2] != 0;
  own.has_gradients = has_gradients;
  own.has_scaled = has_scaled_;
  own.scale = number[0];
  own.growth_tracker = static_cast<std::int64_t>(number[1]);
  own.growth_factor = options_.growth_factor();
  own.backoff_factor = options_.backoff_factor();
  own.growth_interval = options_.growth_interval();
  const ScaleReport all = agree_on(*options_.group(), own);
  TORCH_CHECK(all.has_scaled,
              "GradScaler::step: no loss has been scaled on any rank; call "
              "scale(loss).backward() first");
  TORCH_CHECK(all.has_gradients,
              "GradScaler::step: no parameter of this optimizer has a gradient on any rank");
  found_inf = {at::full({}, all.found_inf ? 1.0 : 0.0, scale_.options())};
  return all.found_inf;
}

bool GradScaler::found_overflow(const Iteration& iteration) const {
  TORCH_CHECK(!iteration.found_inf.empty(),
              "GradScaler::step: no parameter of this optimizer has a gradient");
  for (const at::Tensor& found : iteration.found_inf) {
    if (found.item<float>() != 0) return true;
  }
  return false;
}

bool GradScaler::step(torch::optim::Optimizer& optimizer) {
  if (!is_enabled()) {
    optimizer.step();
    return true;
  }
  check_scaled("step");
  Iteration& iteration = iteration_of(optimizer);
  TORCH_CHECK(iteration.stage != Stage::Stepped,
              "GradScaler::step: this optimizer has stepped already since the last update()");
  if (iteration.stage == Stage::Ready) unscale(optimizer, iteration);
  // Nothing has been divided yet, and a refused call leaves nothing behind.
  if (iteration.found_inf.empty()) iteration.stage = Stage::Ready;
  const bool has_overflow =
      options_.group() ? agree(iteration.found_inf) : found_overflow(iteration);
  iteration.stage = Stage::Stepped;  // also where the optimizer throws: the ranks have agreed
  if (!has_overflow) optimizer.step();
  at::autocast::clear_cache();  // it may have the weights of before
  return !has_overflow;
}

void GradScaler::update() {
  if (!is_enabled()) return;
  std::vector<at::Tensor> known;
  std::vector<at::Tensor> of_this_rank;
  bool is_of_this_rank = false;
  for (const Iteration& iteration : iterations_) {
    if (iteration.stage == Stage::Ready) continue;  // of a call that was refused
    const bool is_agreed = iteration.stage == Stage::Stepped || !options_.group();
    auto& list = is_agreed ? known : of_this_rank;
    list.insert(list.end(), iteration.found_inf.begin(), iteration.found_inf.end());
    is_of_this_rank |= !is_agreed;
  }
  if (is_of_this_rank) {
    static_cast<void>(agree(of_this_rank));
    known.insert(known.end(), of_this_rank.begin(), of_this_rank.end());
  }
  TORCH_CHECK(!known.empty(),
              "GradScaler::update: no optimizer has had step() or unscale_() since the last "
              "update()");
  at::_amp_update_scale_(scale_, growth_tracker_, sum_of(known, scale_.device()),
                         options_.growth_factor(), options_.backoff_factor(),
                         options_.growth_interval());
  iterations_.clear();
}

void GradScaler::update(double new_scale) {
  if (!is_enabled()) return;
  check_scale(new_scale);
  make_scale(scale_.defined() ? scale_.device() : at::Device(at::kCPU));
  scale_.fill_(new_scale);
  iterations_.clear();
}

void GradScaler::update(const at::Tensor& new_scale) {
  if (!is_enabled()) return;
  TORCH_CHECK(new_scale.defined() && new_scale.numel() == 1 && !new_scale.requires_grad(),
              "GradScaler::update: the new scale must be a tensor of one element without gradient");
  make_scale(new_scale.device());
  scale_.copy_(new_scale.reshape({}), /*non_blocking=*/true);
  iterations_.clear();
}

double GradScaler::get_scale() const {
  if (!is_enabled()) return 1;
  return scale_.defined() ? scale_.item<double>() : options_.init_scale();
}

void GradScaler::set_growth_factor(double factor) {
  check_growth_factor(factor);
  options_.growth_factor(factor);
}

void GradScaler::set_backoff_factor(double factor) {
  check_backoff_factor(factor);
  options_.backoff_factor(factor);
}

void GradScaler::set_growth_interval(std::int64_t interval) {
  check_growth_interval(interval);
  options_.growth_interval(interval);
}

std::map<std::string, at::Tensor> GradScaler::state() const {
  if (!is_enabled()) return {};
  const bool is_between = std::any_of(iterations_.begin(), iterations_.end(), [](const auto& one) {
    return one.stage != Stage::Ready;  // those are of calls that were refused
  });
  TORCH_CHECK(!is_between,
              "GradScaler::state: an optimizer has had step() or unscale_(); call update() first");
  const std::int64_t tracker =
      growth_tracker_.defined() ? growth_tracker_.item<std::int64_t>() : init_growth_tracker_;
  return {{kScale, at::scalar_tensor(get_scale(), at::kDouble)},
          {kGrowthFactor, at::scalar_tensor(options_.growth_factor(), at::kDouble)},
          {kBackoffFactor, at::scalar_tensor(options_.backoff_factor(), at::kDouble)},
          {kGrowthInterval, at::scalar_tensor(options_.growth_interval(), at::kLong)},
          {kGrowthTracker, at::scalar_tensor(tracker, at::kLong)}};
}

void GradScaler::load_state(const std::map<std::string, at::Tensor>& state) {
  prepare_state(state)();
}

std::function<void()> GradScaler::prepare_state(const std::map<std::string, at::Tensor>& state) {
  if (!is_enabled()) return [] {};
  TORCH_CHECK(!state.empty(),
              "GradScaler::load_state: the state is empty; it is that of a scaler that was not "
              "enabled");
  for (const auto& [name, value] : state) {
    TORCH_CHECK(name == kScale || name == kGrowthFactor || name == kBackoffFactor ||
                    name == kGrowthInterval || name == kGrowthTracker,
                "GradScaler::load_state: a scaler has no '", name, "'");
  }
  const auto scale = number_of<double>(state, kScale);
  const auto growth_factor = number_of<double>(state, kGrowthFactor);
  const auto backoff_factor = number_of<double>(state, kBackoffFactor);
  const auto interval = number_of<std::int64_t>(state, kGrowthInterval);
  const auto tracker = number_of<std::int64_t>(state, kGrowthTracker);
  check_scale(scale);
  check_growth_factor(growth_factor);
  check_backoff_factor(backoff_factor);
  check_growth_interval(interval);
  TORCH_CHECK(tracker >= 0 && tracker <= std::numeric_limits<std::int32_t>::max(),
              "GradScaler::load_state: '", kGrowthTracker, "' is ", tracker,
              "; it must be from 0 to 2^31 - 1");
  return [=, this] {
    options_.init_scale(scale).growth_factor(growth_factor).backoff_factor(backoff_factor);
    options_.growth_interval(interval);
    init_growth_tracker_ = tracker;
    iterations_.clear();
    if (!scale_.defined()) return;
    scale_.fill_(scale);
    growth_tracker_.fill_(tracker);
  };
}

}  // namespace lockstep::amp
