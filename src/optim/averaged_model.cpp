// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/autocast_mode.h>
#include <lockstep/core/logging.h>
#include <lockstep/optim/averaged_model.h>

#include <algorithm>
#include <exception>
#include <unordered_map>
#include <utility>
#include <vector>

#include "optim/tensor_groups.h"

namespace lockstep::optim {
namespace {

constexpr const char* kCount = "n_averaged";
constexpr const char* kPrefix = "module.";
constexpr const char* kWasTrained =
    "AveragedModel: parameters were written to while the averages were swapped in; what was "
    "written is lost, and the weights of training are back. End the guard of swap() before the "
    "optimizer steps";

/// A tensor of a module, under all names that it has there.
struct NamedTensor {
  std::vector<std::string> names;
  at::Tensor tensor;
  bool is_buffer = false;
};

std::vector<NamedTensor> tensors_of(const torch::nn::Module& module) {
  std::vector<NamedTensor> found;
  std::unordered_map<const void*, std::size_t> places;
  const auto add = [&](const auto& items, bool is_buffer) {
    for (const auto& item : items) {
      if (!item.value().defined()) continue;
      const auto [place, is_new] = places.emplace(item.value().unsafeGetTensorImpl(), found.size());
      if (is_new) found.push_back({{}, item.value(), is_buffer});
      found[place->second].names.push_back(item.key());
    }
  };
  add(module.named_parameters(), false);
  add(module.named_buffers(), true);
  return found;
}

/// Whether all bits are equal; what is no number has bits, too.
bool have_same_bits(const at::Tensor& left, const at::Tensor& right) {
  const auto bits_of = [](const at::Tensor& tensor) {
    switch (tensor.element_size()) {
      case 1:
        return tensor.view(at::kByte);
      case 2:
        return tensor.view(at::kShort);
      case 4:
        return tensor.view(at::kInt);
      case 8:
        return tensor.view(at::kLong);
      default:
        return at::view_as_real(tensor).view(at::kLong);  // two doubles
    }
  };
  return bits_of(left).equal(bits_of(right));
}

}  // namespace

struct AveragedModel::Core {
  Core(torch::nn::Module& its_model, AveragedModelOptions its_options)
      : model(its_model), options(std::move(its_options)) {
    averages = tensors_of(model);
    for (NamedTensor& average : averages) {
      const at::Tensor copy = average.tensor.detach().clone();
      average.tensor = options.device() ? copy.to(*options.device()) : copy;
    }
  }

  void check_idle(const char* call) {
    TORCH_CHECK(!is_swapped, "AveragedModel::", call,
                ": the averages are the weights of the model now; end the guard of swap() first");
    TORCH_CHECK(!std::exchange(was_trained, false), kWasTrained);
  }

  /// The model's tensors, in the order of `averages`.
  [[nodiscard]] std::vector<NamedTensor> current() const {
    auto found = tensors_of(model);
    TORCH_CHECK(found.size() == averages.size(), "AveragedModel: the model has ", found.size(),
                " parameters and buffers, and had ", averages.size(),
                "; average a changed model by a new AveragedModel");
    for (std::size_t i = 0; i < found.size(); ++i) {
      const at::Tensor& now = found[i].tensor;
      const at::Tensor& average = averages[i].tensor;
      TORCH_CHECK(found[i].names == averages[i].names && now.sizes() == average.sizes() &&
                      now.scalar_type() == average.scalar_type(),
                  "AveragedModel: the model has '", found[i].names.front(), "', ",
                  now.scalar_type(), " of shape ", now.sizes(), ", where it had '",
                  averages[i].names.front(), "', ", average.scalar_type(), " of shape ",
                  average.sizes(), "; average a changed model by a new AveragedModel");
    }
    return found;
  }

  void update();
  void begin_swap();
  [[nodiscard]] bool end_swap();

  torch::nn::Module& model;
  AveragedModelOptions options;
  std::vector<NamedTensor> averages;
  std::int64_t count = 0;

  bool is_swapped = false;
  bool was_trained = false;             // while it was swapped; nobody has been told yet
  std::vector<at::Tensor> swapped;      // the model's tensors
  std::vector<at::Tensor> of_training;  // their values before
};

void AveragedModel::Core::update() {
  check_idle("update");
  const at::NoGradGuard no_gradients;
  const auto now = current();
  std::vector<at::Tensor> averaged;
  std::vector<at::Tensor> values;
  for (std::size_t i = 0; i < now.size(); ++i) {
    const at::Tensor& average = averages[i].tensor;
    if (count == 0 || (now[i].is_buffer && !options.use_buffers())) {
      average.copy_(now[i].tensor);
    } else {
      averaged.push_back(average);
      values.push_back(now[i].tensor.to(average.device()));
    }
  }
  for (const auto& indices : group_by_device_and_dtype(averaged)) {
    const auto of_group = select(averaged, indices);
    const auto values_of_group = select(values, indices);
    if (options.multi_avg_fn()) {
      options.multi_avg_fn()(of_group, values_of_group, count);
    } else {
      // As Python chooses.
      const auto mean = of_group.front().is_cpu() ? get_swa_avg_fn() : get_swa_multi_avg_fn();
      mean(of_group, values_of_group, count);
    }
  }
  ++count;
}

void AveragedModel::Core::begin_swap() {
  check_idle("swap");
  const at::NoGradGuard no_gradients;
  std::vector<at::Tensor> now;
  std::vector<at::Tensor> copies;
  for (const NamedTensor& item : current()) {
    now.push_back(item.tensor);
    copies.push_back(item.tensor.clone());
  }
  swapped = std::move(now);
  of_training = std::move(copies);
  is_swapped = true;
  try {
    for (std::size_t i = 0; i < swapped.size(); ++i) swapped[i].copy_(averages[i].tensor);
  } catch (...) {
    for (std::size_t i = 0; i < swapped.size(); ++i) swapped[i].copy_(of_training[i]);
    is_swapped = false;
    throw;
  }
  at::autocast::clear_cache();  // it may have the weights of before
}

/// Returns whether the parameters are as `begin_swap` left them.
bool AveragedModel::Core::end_swap() {
  const at::NoGradGuard no_gradients;
  bool is_unchanged = true;
  for (std::size_t i = 0; i < swapped.size(); ++i) {
    const at::Tensor& average = averages[i].tensor;
    if (averages[i].is_buffer) {
      average.copy_(swapped[i]);
    } else if (is_unchanged) {
      is_unchanged = swapped[i].scalar_type() == of_training[i].scalar_type() &&
                     have_same_bits(swapped[i].to(average.device()), average);
    }
    swapped[i].copy_(of_training[i]);
  }
  at::autocast::clear_cache();
  swapped.clear();
  of_training.clear();
  is_swapped = false;
  return is_unchanged;
}

AveragedModel::Swap::Swap(std::shared_ptr<Core> core) : core_(std::move(core)) {
  core_->begin_swap();
  no_gradients_.emplace();
}

AveragedModel::Swap::~Swap() {
  if (!core_->is_swapped || !no_gradients_) return;
  try {
    if (core_->end_swap()) return;
    core_->was_trained = true;
    logging::error(kWasTrained);
  } catch (const std::exception& error) {
    std::string text = "AveragedModel: the weights of training could not be copied back: ";
    text += error.what();
    logging::error(text);
  }
}

void AveragedModel::Swap::restore() {
  if (!no_gradients_) return;
  const bool is_unchanged = core_->end_swap();
  no_gradients_.reset();
  TORCH_CHECK(is_unchanged, kWasTrained);
}

AveragedModel::AveragedModel(torch::nn::Module& model, const AveragedModelOptions& options)
    : core_(std::make_shared<Core>(model, options)) {}

AveragedModel::~AveragedModel() = default;

void AveragedModel::update() {
  core_->update();
}

bool AveragedModel::is_swapped() const noexcept {
  return core_->is_swapped;
}

std::int64_t AveragedModel::n_averaged() const noexcept {
  return core_->count;
}

std::map<std::string, at::Tensor> AveragedModel::averages() const {
  std::map<std::string, at::Tensor> named;
  for (const NamedTensor& average : core_->averages) {
    for (const std::string& name : average.names) named.emplace(name, average.tensor);
  }
  return named;
}

std::map<std::string, at::Tensor> AveragedModel::state() const {
  core_->check_idle("state");
  std::map<std::string, at::Tensor> named;
  for (const auto& [name, tensor] : averages()) named.emplace(kPrefix + name, tensor);
  named.emplace(kCount, at::scalar_tensor(core_->count, at::kLong));
  return named;
}

void AveragedModel::load_state(const std::map<std::string, at::Tensor>& state) {
  prepare_state(state)();
}

std::function<void()> AveragedModel::prepare_state(const std::map<std::string, at::Tensor>& state) {
  core_->check_idle("load_state");
  auto own = averages();
  for (const auto& [name, tensor] : state) {
    if (name == kCount) continue;
    const bool has_prefix = name.rfind(kPrefix, 0) == 0;
    const auto found = own.find(has_prefix ? name.substr(std::string(kPrefix).size()) : "");
    TORCH_CHECK(has_prefix && found != own.end(), "AveragedModel::load_state: the model has no '",
                name, "'");
    TORCH_CHECK(tensor.sizes() == found->second.sizes() &&
                    tensor.scalar_type() == found->second.scalar_type(),
                "AveragedModel::load_state: '", name, "' is ", tensor.scalar_type(), " of shape ",
                tensor.sizes(), "; the model's is ", found->second.scalar_type(), " of shape ",
                found->second.sizes());
  }
  for (const auto& [name, tensor] : own) {
    TORCH_CHECK(state.count(kPrefix + name) == 1, "AveragedModel::load_state: the state has no '",
                kPrefix, name, "'");
  }
  const auto count = state.find(kCount);
  TORCH_CHECK(count != state.end() && count->second.numel() == 1 &&
                  count->second.scalar_type() == at::kLong &&
                  count->second.item<std::int64_t>() >= 0,
              "AveragedModel::load_state: the state has no whole number '", kCount, "'");
  return [core = core_, own = std::move(own), state] {
    core->check_idle("load_state");
    const at::NoGradGuard no_gradients;
    for (const auto& [name, tensor] : own) tensor.copy_(state.at(kPrefix + name));
    core->count = state.at(kCount).item<std::int64_t>();
  };
}

}  // namespace lockstep::optim
