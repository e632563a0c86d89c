// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/stage.h>

#include <unordered_set>

namespace lockstep::pipeline {

Stage::Stage(bool has_modules) {
  TORCH_CHECK(has_modules, "pipeline: a stage is made of a module that is empty or null");
}

std::vector<at::Tensor> Stage::parameters() const {
  std::vector<at::Tensor> all;
  std::unordered_set<c10::TensorImpl*> seen;
  for (const auto& of_module : parameters_) {
    for (at::Tensor& parameter : of_module()) {
      if (seen.insert(parameter.unsafeGetTensorImpl()).second) all.push_back(std::move(parameter));
    }
  }
  return all;
}

c10::Device Stage::device() const {
  for (const auto& of_module : parameters_) {
    const auto parameters = of_module();
    if (!parameters.empty()) return parameters.front().device();
  }
  return c10::kCPU;
}

std::vector<std::shared_ptr<void>> Stage::pause_averaging() const {
  std::vector<std::shared_ptr<void>> guards;
  for (const auto& pause : pauses_) guards.push_back(pause());
  return guards;
}

}  // namespace lockstep::pipeline
