// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/parameter_record.h"

#include <algorithm>
#include <cstddef>

namespace lockstep {
namespace {

/// Leads to what LibTorch otherwise shows in copies only, with a name made for each entry.
class OwnParameters : public torch::nn::Module {
 public:
  static const auto& of(const torch::nn::Module& module) {
    return module.*(&OwnParameters::parameters_);
  }
};

/// Visits the parameters in the order of `Module::parameters`, up to the first for which `visit`
/// returns false. Returns whether there was none.
template <typename Visit>
bool visit_parameters(const torch::nn::Module& module, const Visit& visit) {
  for (const auto& item : OwnParameters::of(module)) {
    if (item.value().defined() && !visit(item.value())) return false;
  }
  const auto children = module.children();
  return std::all_of(children.begin(), children.end(),
                     [&](const auto& child) { return visit_parameters(*child, visit); });
}

}  // namespace

ParameterRecord::ParameterRecord(const torch::nn::Module& module) {
  visit_parameters(module, [this](const at::Tensor& tensor) {
    entries_.push_back({tensor, tensor.requires_grad(), TensorForm(tensor)});
    return true;
  });
}

bool ParameterRecord::is_of(const torch::nn::Module& module) const {
  std::size_t next = 0;
  const bool all_are_known = visit_parameters(module, [&](const at::Tensor& tensor) {
    return next < entries_.size() && entries_[next++].is_of(tensor);
  });
  return all_are_known && next == entries_.size();
}

bool ParameterRecord::Entry::is_of(const at::Tensor& now) const {
  return now.is_same(tensor) && now.requires_grad() == needs_gradient && form.is_of(now);
}

}  // namespace lockstep
