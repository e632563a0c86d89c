// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/optimizer_state.h>
#include <lockstep/training/safetensors.h>

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "files/bounded_view.h"
#include "training/optimizer/groups_json.h"
#include "training/optimizer/named_state.h"
#include "training/optimizer/optimizer_kind.h"
#include "training/optimizer/parameter_state.h"

namespace lockstep::training {
namespace {

using torch::optim::Optimizer;
using torch::optim::OptimizerParamGroup;
using torch::optim::OptimizerParamState;
using States = std::decay_t<decltype(std::declval<Optimizer&>().state())>;

constexpr const char* kGroupsKey = "param_groups";

const std::string& name_of(const ParameterNames& names, const at::Tensor& parameter) {
  const auto found = names.find(parameter.unsafeGetTensorImpl());
  TORCH_CHECK(found != names.end(), "the state of the optimizer: a parameter of shape ",
              parameter.sizes(), " is none of the module's, and has no name");
  return found->second;
}

std::vector<std::string> names_of(const ParameterNames& names, const OptimizerParamGroup& group) {
  std::vector<std::string> all;
  for (const auto& parameter : group.params()) all.push_back(name_of(names, parameter));
  return all;
}

std::string prefix_of(const std::string& parameter) {
  return "state." + parameter + ".";
}

/// What the optimizer would be given: all of it is made before anything is changed.
class NewState {
 public:
  NewState(Optimizer& optimizer, const ParameterNames& names, const OptimizerState& state,
           StateTensors tensors)
      : optimizer_(optimizer), kind_(kind_of(optimizer)), tensors_of_state_(tensors) {
    const auto groups = parse_groups(state.param_groups);
    TORCH_CHECK(groups.size() == optimizer.param_groups().size(), "the state of the optimizer has ",
                groups.size(), " groups; this optimizer has ", optimizer.param_groups().size());
    std::set<std::string> used;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      OptimizerParamGroup& group = optimizer.param_groups()[i];
      check_parameters(i, names_of(names, group), groups[i].params);
      options_.push_back(kind_->read(group.options(), groups[i]));
      for (const auto& parameter : group.params()) {
        add_state(parameter, name_of(names, parameter), state.tensors, used);
      }
    }
    for (const auto& [name, tensor] : state.tensors) {
      TORCH_CHECK(used.contains(name), "the state of the optimizer: ", files::in_quotes(name),
                  " belongs to none of its parameters, or to another kind of optimizer");
    }
  }

  void apply() {
    for (std::size_t i = 0; i < options_.size(); ++i) {
      optimizer_.param_groups()[i].set_options(std::move(options_[i]));
    }
    optimizer_.state() = std::move(states_);
  }

 private:
  void check_parameters(std::size_t group, const std::vector<std::string>& own,
                        const std::vector<std::string>& saved) const {
    TORCH_CHECK(!kind_->needs_same_order() || own == saved, "the state of the optimizer: group ",
                group, " has other parameters than this optimizer, or in another order");
    const std::set<std::string> expected(own.begin(), own.end());
    const std::set<std::string> found(saved.begin(), saved.end());
    for (const auto& name : expected) {
      TORCH_CHECK(found.contains(name), "the state of the optimizer: group ", group,
                  " has no parameter ", files::in_quotes(name));
    }
    for (const auto& name : found) {
      TORCH_CHECK(expected.contains(name), "the state of the optimizer: group ", group,
                  " has a parameter ", files::in_quotes(name),
                  ", which this optimizer does not have there");
    }
  }

  [[nodiscard]] std::int64_t all_elements() const {
    std::int64_t elements = 0;
    for (const auto& group : optimizer_.param_groups()) {
      for (const auto& parameter : group.params()) elements += parameter.numel();
    }
    return elements;
  }

  void add_state(const at::Tensor& parameter, const std::string& name, const NamedTensors& tensors,
                 std::set<std::string>& used) {
    const std::string prefix = prefix_of(name);
    const auto first = tensors.lower_bound(prefix);
    // Nothing is known of one that has had no gradient yet.
    if (first == tensors.end() || !first->first.starts_with(prefix)) return;
    StateReader reader(prefix, parameter, all_elements(), tensors, tensors_of_state_, used);
    states_[parameter.unsafeGetTensorImpl()] = kind_->read_state(reader);
  }

  Optimizer& optimizer_;
  std::unique_ptr<OptimizerKind> kind_;
  StateTensors tensors_of_state_;
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options_;
  States states_;
};

}  // namespace

ParameterNames parameter_names(const torch::nn::Module& module) {
  ParameterNames names;
  for (const auto& item : module.named_parameters()) {
    names.emplace(item.value().unsafeGetTensorImpl(), item.key());
  }
  return names;
}

OptimizerState named_state_of(const Optimizer& optimizer, const ParameterNames& names) {
  OptimizerState result;
  std::string groups;
  const auto kind = kind_of(optimizer);
  for (const auto& group : optimizer.param_groups()) {
    if (!groups.empty()) groups += ',';
    groups += kind->write(group.options(), names_of(names, group));
    for (const auto& parameter : group.params()) {
      const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
      if (found == optimizer.state().end()) continue;
      StateWriter writer(prefix_of(name_of(names, parameter)), result.tensors);
      kind->write_state(*found->second, writer);
    }
  }
  result.param_groups = '[';
  result.param_groups += groups;
  result.param_groups += ']';
  return result;
}

std::function<void()> prepare_state(Optimizer& optimizer, const ParameterNames& names,
                                    const OptimizerState& state, StateTensors tensors) {
  return [ready = std::make_shared<NewState>(optimizer, names, state, tensors)] { ready->apply(); };
}

OptimizerState state_of(const Optimizer& optimizer, const torch::nn::Module& module) {
  return named_state_of(optimizer, parameter_names(module));
}

void load_state(Optimizer& optimizer, const torch::nn::Module& module,
                const OptimizerState& state) {
  prepare_state(optimizer, parameter_names(module), state, StateTensors::Copied)();
}

void save_optimizer(const Optimizer& optimizer, const torch::nn::Module& module,
                    const std::filesystem::path& path) {
  const OptimizerState state = state_of(optimizer, module);
  save_safetensors(path, state.tensors, {{"format", "pt"}, {kGroupsKey, state.param_groups}});
}

void load_optimizer(Optimizer& optimizer, const torch::nn::Module& module,
                    const std::filesystem::path& path) {
  const auto metadata = read_safetensors_header(path).metadata;
  const auto groups = metadata.find(kGroupsKey);
  TORCH_CHECK(groups != metadata.end(), path.string(), ": its metadata have no '", kGroupsKey,
              "', as the state of an optimizer has");
  load_state(optimizer, module, {load_safetensors(path), groups->second});
}

}  // namespace lockstep::training
