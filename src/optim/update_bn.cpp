// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <lockstep/optim/update_bn.h>
#include <torch/nn/modules/batchnorm.h>

#include <memory>
#include <vector>

namespace lockstep::optim {
namespace {

/// One of LibTorch's.
template <class BatchNorm>
class LibTorchsOwn : public TracksBatches {
 public:
  explicit LibTorchsOwn(BatchNorm& module) : module_(module) {}
  void forget_batches() override {
    const at::NoGradGuard no_gradients;
    module_.reset_running_stats();
  }
  std::optional<double> momentum() const override { return module_.options.momentum(); }
  void set_momentum(std::optional<double> momentum) override { module_.options.momentum(momentum); }

 private:
  BatchNorm& module_;
};

template <class BatchNorm>
std::shared_ptr<TracksBatches> as(const std::shared_ptr<torch::nn::Module>& module) {
  auto* found = dynamic_cast<BatchNorm*>(module.get());
  if (found == nullptr) return nullptr;
  return std::make_shared<LibTorchsOwn<BatchNorm>>(*found);
}

std::vector<std::shared_ptr<TracksBatches>> batch_norms_of(
    const std::vector<std::shared_ptr<torch::nn::Module>>& modules) {
  std::vector<std::shared_ptr<TracksBatches>> found;
  for (const auto& module : modules) {
    auto tracker = std::dynamic_pointer_cast<TracksBatches>(module);
    if (!tracker) tracker = as<torch::nn::BatchNorm1dImpl>(module);
    if (!tracker) tracker = as<torch::nn::BatchNorm2dImpl>(module);
    if (!tracker) tracker = as<torch::nn::BatchNorm3dImpl>(module);
    if (tracker) found.push_back(std::move(tracker));
  }
  return found;
}

/// Sets the modes of all modules and the momenta back when it goes.
class SettingsGuard {
 public:
  SettingsGuard(const std::vector<std::shared_ptr<torch::nn::Module>>& modules,
                const std::vector<std::shared_ptr<TracksBatches>>& trackers) {
    for (const auto& module : modules) modes_.emplace_back(module, module->is_training());
    for (const auto& tracker : trackers) momenta_.emplace_back(tracker, tracker->momentum());
  }
  ~SettingsGuard() {
    // A module's `train` sets those inside it, too, which come later here.
    for (const auto& [module, is_training] : modes_) module->train(is_training);
    for (const auto& [tracker, momentum] : momenta_) tracker->set_momentum(momentum);
  }
  SettingsGuard(const SettingsGuard&) = delete;
  SettingsGuard& operator=(const SettingsGuard&) = delete;

 private:
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modes_;
  std::vector<std::pair<std::shared_ptr<TracksBatches>, std::optional<double>>> momenta_;
};

void add_modules_in(const torch::nn::Module& module,
                    std::vector<std::shared_ptr<torch::nn::Module>>& found) {
  for (const auto& child : module.children()) {
    found.push_back(child);
    add_modules_in(*child, found);
  }
}

/// The module itself and all inside it, each before those in it. (LibTorch's `modules()` refuses a
/// module that no shared pointer owns.)
std::vector<std::shared_ptr<torch::nn::Module>> modules_of(torch::nn::Module& model) {
  std::vector<std::shared_ptr<torch::nn::Module>> found{
      std::shared_ptr<torch::nn::Module>(std::shared_ptr<void>(), &model)};
  add_modules_in(model, found);
  return found;
}

}  // namespace

TracksBatches::~TracksBatches() = default;

void update_bn(torch::nn::Module& model, const std::function<void()>& pass) {
  const auto modules = modules_of(model);
  const auto trackers = batch_norms_of(modules);
  if (trackers.empty()) return;
  const SettingsGuard settings(modules, trackers);
  for (const auto& tracker : trackers) {
    tracker->forget_batches();
    tracker->set_momentum(std::nullopt);
  }
  model.train();
  const at::NoGradGuard no_gradients;
  pass();
}

}  // namespace lockstep::optim
