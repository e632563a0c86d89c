// SPDX-License-Identifier: BSD-3-Clause
#include "optim/update_plan.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "optim/tensor_layout.h"

namespace lockstep::optim {
namespace {

bool is_same_form(const StateForm& a, const StateForm& b) {
  return std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(),
                    [](const auto& x, const auto& y) { return x.is_used == y.is_used; });
}

void check_gradient(const at::Tensor& gradient, const at::Tensor& parameter) {
  TORCH_CHECK(gradient.layout() == at::kStrided,
              "an optimizer's step: the gradient of a parameter ", "of shape ", parameter.sizes(),
              " is sparse; expected a dense one");
  TORCH_CHECK(gradient.sizes() == parameter.sizes() && gradient.device() == parameter.device() &&
                  at::isFloatingType(gradient.scalar_type()),
              "an optimizer's step: a gradient is ", gradient.scalar_type(), " of shape ",
              gradient.sizes(), " on ", gradient.device(), "; its parameter is ",
              parameter.scalar_type(), " of shape ", parameter.sizes(), " on ", parameter.device());
}

ParameterState& state_for(const at::Tensor& parameter, UpdatePlan::States& states) {
  auto& state = states[parameter.unsafeGetTensorImpl()];
  if (state == nullptr) state = std::make_unique<ParameterState>();
  auto* own = dynamic_cast<ParameterState*>(state.get());
  TORCH_CHECK(own != nullptr, "an optimizer's step: the state of a parameter of shape ",
              parameter.sizes(), " is of another kind of optimizer");
  own->owner = parameter;
  return *own;
}

/// Where the program has written to a parameter, its copy gets what the parameter has.
void take_written(const at::Tensor& parameter, at::Tensor& master) {
  const auto written = parameter.ne(master.to(parameter.scalar_type()));
  master.copy_(at::where(written, parameter.to(master.scalar_type()), master));
}

/// A parameter that is converted to a type that needs no copy has none any more.
void forget_master(const at::Tensor& parameter, UpdatePlan::States& states) {
  if (computing_type(parameter.scalar_type()) != parameter.scalar_type()) return;
  const auto found = states.find(parameter.unsafeGetTensorImpl());
  if (found == states.end()) return;
  if (auto* own = dynamic_cast<ParameterState*>(found->second.get())) own->master = at::Tensor();
}

/// The tensor that the operators update for this parameter.
at::Tensor computed_tensor(const at::Tensor& parameter, ParameterState* state) {
  const auto type = computing_type(parameter.scalar_type());
  if (type == parameter.scalar_type()) {
    return parameter.is_non_overlapping_and_dense()
               ? parameter
               : at::empty_like(parameter, parameter.options(), at::MemoryFormat::Contiguous);
  }
  const auto model = at::empty_like(parameter, parameter.options().dtype(type));
  if (!state->master.defined()) return state->master = model.copy_(parameter);
  TORCH_CHECK(state->master.sizes() == parameter.sizes(),
              "an optimizer's step: the copy of a parameter in its state is of shape ",
              state->master.sizes(), "; the parameter is of shape ", parameter.sizes());
  state->master = laid_out_like(state->master, model);
  take_written(parameter, state->master);
  return state->master;
}

at::Tensor state_tensor_like(const at::Tensor& tensor, const at::Tensor& computed,
                             const StateForm::Entry& entry) {
  if (!tensor.defined()) return at::full_like(computed, entry.initial_value);
  TORCH_CHECK(tensor.sizes() == computed.sizes(), "an optimizer's step: '", entry.name,
              "' is of shape ", tensor.sizes(), "; its parameter is of shape ", computed.sizes());
  return laid_out_like(tensor, computed);
}

bool needs_state(const StateForm& form, const at::Tensor& parameter) {
  return form.counts_steps || computing_type(parameter.scalar_type()) != parameter.scalar_type() ||
         std::any_of(form.tensors.begin(), form.tensors.end(),
                     [](const auto& entry) { return entry.name != nullptr && entry.is_used; });
}

void count_step(ParameterList& list) {
  if (list.steps.empty()) return;
  for (auto& step : list.steps) ++step;
  if (list.step_numbers.defined()) {
    list.step_numbers.add_(1);
    return;
  }
  list.step_numbers = at::tensor(std::vector<float>(list.steps.begin(), list.steps.end()),
                                 at::TensorOptions().dtype(at::kFloat).device(list.device));
  list.step_tensors = list.step_numbers.unbind(0);
}

}  // namespace

void UpdatePlan::begin(Groups& groups, States& states, Forms forms, const CheckParameter& check) {
  const bool fits = is_valid_ && put_gradients(groups, states, forms);
  is_valid_ = false;
  if (!fits) {
    forms_ = std::move(forms);
    make_lists(groups, states, check);
  }
  for (auto& list : lists_) count_step(list);
}

bool UpdatePlan::put_gradients(Groups& groups, States& states, const Forms& forms) {
  if (groups.size() != places_.size()) return false;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& parameters = groups[g].params();
    if (parameters.size() != places_[g].size() || !is_same_form(forms[g], forms_[g])) return false;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (!put_gradient(parameters[i], places_[g][i], states, forms[g])) return false;
    }
  }
  return true;
}

bool UpdatePlan::put_gradient(const at::Tensor& parameter, Place& place, States& states,
                              const StateForm& form) {
  const at::Tensor& gradient = parameter.grad();
  if (!parameter.is_same(place.parameter) || gradient.defined() != place.has_gradient) return false;
  if (!place.has_gradient || place.is_repeated) return true;
  auto& list = lists_[place.list];
  // The parameter may have been given other memory, or have become another tensor, by `set_data`.
  if (list.is_first_step || parameter.scalar_type() != list.parameter_type ||
      parameter.device() != list.device || parameter.sizes() != place.sizes ||
      parameter.strides() != place.strides || !has_same_state(place, states, form)) {
    return false;
  }
  if (list.is_copied) follow_writes(place);
  check_gradient(gradient, parameter);
  list.gradients[place.index] = laid_out_like(gradient, list.parameters[place.index]);
  return true;
}

bool UpdatePlan::has_same_state(const Place& place, States& states, const StateForm& form) const {
  if (place.state == nullptr) return true;
  const auto found = states.find(place.parameter.unsafeGetTensorImpl());
  // The tensors are compared, since the lists keep them: their addresses are not used again.
  if (found == states.end() || found->second.get() != place.state) return false;
  const auto& list = lists_[place.list];
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    if (form.tensors[k].name != nullptr && form.tensors[k].is_used &&
        !place.state->tensors[k].is_same(list.tensors[k][place.index])) {
      return false;
    }
  }
  const bool has_master = list.parameter_type != computing_type(list.parameter_type);
  return place.state->step == place.step &&
         (!has_master || place.state->master.is_same(list.parameters[place.index]));
}

void UpdatePlan::follow_writes(Place& place) {
  auto& list = lists_[place.list];
  auto& computed = list.parameters[place.index];
  if (computed.scalar_type() == list.parameter_type) {
    computed.copy_(place.parameter);
  } else if (place.parameter._version() != place.version ||
             place.parameter.const_data_ptr() != place.begin ||
             !place.parameter.storage().is_alias_of(place.memory)) {  // `set_data` counts nothing
    take_written(place.parameter, computed);
  }
}

void UpdatePlan::make_lists(Groups& groups, States& states, const CheckParameter& check) {
  lists_.clear();
  places_.clear();
  std::map<const void*, std::size_t> group_of;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    auto& places = places_.emplace_back();
    for (const auto& parameter : groups[g].params()) {
      auto& place = places.emplace_back();
      place.parameter = parameter;
      place.has_gradient = parameter.grad().defined();
      const auto [found, is_new] = group_of.emplace(parameter.unsafeGetTensorImpl(), g);
      TORCH_CHECK(found->second == g, "an optimizer's step: a parameter of shape ",
                  parameter.sizes(), " is in group ", found->second, " and in group ", g);
      place.is_repeated = !is_new;
      if (!place.has_gradient || place.is_repeated) continue;
      check(parameter);
      add(g, place, states);
    }
  }
}

void UpdatePlan::add(std::size_t group, Place& place, States& states) {
  const auto& form = forms_[group];
  const auto& parameter = place.parameter;
  const at::Tensor& gradient = parameter.grad();
  check_gradient(gradient, parameter);
  if (needs_state(form, parameter)) place.state = &state_for(parameter, states);
  forget_master(parameter, states);
  const auto computed = computed_tensor(parameter, place.state);
  ParameterList like;
  like.group = group;
  like.device = parameter.device();
  like.parameter_type = parameter.scalar_type();
  like.is_copied = !computed.is_same(parameter);
  like.is_first_step =
      form.starts_with_gradient && form.tensors[0].is_used && !place.state->tensors[0].defined();
  place.list = list_for(like);
  auto& list = lists_[place.list];
  place.index = list.parameters.size();
  place.sizes = parameter.sizes();
  place.strides = parameter.strides();
  list.parameters.push_back(computed);
  list.gradients.push_back(laid_out_like(gradient, computed));
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    const auto& entry = form.tensors[k];
    if (entry.name == nullptr || !entry.is_used) continue;
    auto tensor = state_tensor_like(place.state->tensors[k], computed, entry);
    // One that the first step fills is not in the state before it is filled.
    if (!list.is_first_step || k > 0) place.state->tensors[k] = tensor;
    list.tensors[k].push_back(std::move(tensor));
  }
  if (form.counts_steps) {
    place.step = place.state->step;
    list.steps.push_back(place.step);
  }
  if (!list.is_copied) return;
  list.originals.push_back(parameter);
  if (computed.scalar_type() == list.parameter_type) computed.copy_(parameter);
}

std::size_t UpdatePlan::list_for(const ParameterList& like) {
  const auto found = std::find_if(lists_.begin(), lists_.end(), [&](const ParameterList& list) {
    return list.group == like.group && list.device == like.device &&
           list.parameter_type == like.parameter_type && list.is_copied == like.is_copied &&
           list.is_first_step == like.is_first_step;
  });
  const auto index = static_cast<std::size_t>(found - lists_.begin());
  if (found == lists_.end()) lists_.push_back(like);
  return index;
}

// Of each list by itself: where a later one fails, parameters and their copies still agree.
void UpdatePlan::write_back(ParameterList& list) {
  if (list.is_copied) at::_foreach_copy_(list.originals, list.parameters);
}

void UpdatePlan::finish() {
  for (auto& places : places_) {
    for (auto& place : places) {
      if (!place.has_gradient || place.is_repeated) continue;
      auto& list = lists_[place.list];
      if (list.is_copied) {
        place.version = place.parameter._version();
        place.memory = place.parameter.storage();
        place.begin = place.parameter.const_data_ptr();
      }
      if (list.is_first_step) place.state->tensors[0] = list.tensors[0][place.index];
      if (!list.steps.empty()) place.step = place.state->step = list.steps[place.index];
    }
  }
  is_valid_ = true;
}

void UpdatePlan::release_gradients() {
  for (auto& list : lists_) std::fill(list.gradients.begin(), list.gradients.end(), at::Tensor());
}

}  // namespace lockstep::optim
