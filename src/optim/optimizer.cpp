// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <lockstep/optim/optimizer.h>

#include <map>
#include <utility>

#include "optim/update_plan.h"

namespace lockstep::optim {
namespace {

struct GradientsOfStep {
  UpdatePlan& plan;
  ~GradientsOfStep() { plan.release_gradients(); }
};

ParameterState& own_state(torch::optim::OptimizerParamState& state) {
  auto* own = dynamic_cast<ParameterState*>(&state);
  TORCH_CHECK(own != nullptr, "the state of a parameter is of another kind of optimizer");
  return *own;
}

}  // namespace

Optimizer::Optimizer(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                     std::unique_ptr<torch::optim::OptimizerOptions> defaults)
    : torch::optim::Optimizer(groups, std::move(defaults)), plan_(std::make_unique<UpdatePlan>()) {}

Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&& other) = default;
Optimizer& Optimizer::operator=(Optimizer&& other) = default;

void Optimizer::check_groups() const {
  check(defaults());
  std::map<const void*, std::size_t> group_of;
  for (std::size_t g = 0; g < param_groups().size(); ++g) {
    check(param_groups()[g].options());
    for (const auto& parameter : param_groups()[g].params()) {
      check_parameter(parameter);
      const auto found = group_of.emplace(parameter.unsafeGetTensorImpl(), g).first;
      TORCH_CHECK(found->second == g, "an optimizer: a parameter of shape ", parameter.sizes(),
                  " is in group ", found->second, " and in group ", g);
    }
  }
}

void Optimizer::check_parameter(const at::Tensor& parameter) const {
  TORCH_CHECK(at::isFloatingType(parameter.scalar_type()) && parameter.layout() == at::kStrided,
              "an optimizer: a parameter of shape ", parameter.sizes(), " is ",
              parameter.scalar_type(), ", ", parameter.layout(),
              "; expected a dense one of real numbers");
}

void Optimizer::begin(std::vector<ParameterList>& /*lists*/) {}

torch::Tensor Optimizer::step(LossClosure closure) {
  at::Tensor loss;
  if (closure != nullptr) {
    const at::AutoGradMode with_gradients(true);
    loss = closure();
  }
  const at::NoGradGuard without_gradients;
  // A guard of autocast around the step does not choose the dtype of an update.
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  std::vector<StateForm> forms;
  for (const auto& group : param_groups_) {
    check(group.options());
    forms.push_back(state_form(group.options()));
  }
  const GradientsOfStep gradients{*plan_};
  plan_->begin(param_groups_, state_, std::move(forms),
               [this](const at::Tensor& parameter) { check_parameter(parameter); });
  begin(plan_->lists());
  for (auto& list : plan_->lists()) {
    update(param_groups_[list.group].options(), list);
    UpdatePlan::write_back(list);
  }
  plan_->finish();
  at::autocast::clear_cache();  // it may have the weights of before
  return loss;
}

at::Tensor Optimizer::state_tensor(const at::Tensor& parameter, const std::string& name) const {
  const auto form = state_form(defaults());
  const auto found = state().find(parameter.unsafeGetTensorImpl());
  const bool is_known = found != state().end();
  if (name == "master") return is_known ? own_state(*found->second).master : at::Tensor();
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    if (form.tensors[k].name == nullptr || form.tensors[k].name != name) continue;
    return is_known ? own_state(*found->second).tensors[k] : at::Tensor();
  }
  TORCH_CHECK(false, "the state of this optimizer has no tensor '", name, "'");
}

void Optimizer::save(torch::serialize::OutputArchive& /*archive*/) const {
  TORCH_CHECK(false,
              "torch::save does not save lockstep::optim's optimizers; call "
              "lockstep::training::save_optimizer, or add the optimizer to a TrainingState");
}

void Optimizer::load(torch::serialize::InputArchive& /*archive*/) {
  TORCH_CHECK(false,
              "torch::load does not load lockstep::optim's optimizers; call "
              "lockstep::training::load_optimizer, or add the optimizer to a TrainingState");
}

std::unique_ptr<torch::optim::OptimizerParamState> Optimizer::new_state() const {
  return std::make_unique<ParameterState>();
}

void Optimizer::visit_state(torch::optim::OptimizerParamState& state, StateVisitor& visitor) const {
  auto& own = own_state(state);
  const auto form = state_form(defaults());
  if (form.counts_steps) visitor.count("step", own.step);
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    const auto& entry = form.tensors[k];
    if (entry.name != nullptr) visitor.tensor(entry.name, own.tensors[k], entry.is_required);
  }
  visitor.tensor("master", own.master, false);
}

}  // namespace lockstep::optim
