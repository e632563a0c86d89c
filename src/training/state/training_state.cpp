// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/detach.h>
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/optimizer_state.h>
#include <lockstep/training/training_state.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <memory>
#include <utility>

#include "files/bounded_view.h"
#include "native/posix/streaming_copy.h"
#include "training/optimizer/named_state.h"
#include "training/safetensors/plain_bytes.h"
#include "training/state/random_part.h"

namespace lockstep::training {
namespace {

using detail::TrainingPart;

constexpr const char* kText = "state";
constexpr const char* kGroups = "param_groups";
constexpr const char* kTensor = "value";
constexpr std::size_t kMaxName = 100;

void check_name(const std::string& name) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  TORCH_CHECK(!name.empty() && name.size() <= kMaxName && name.front() != '.' &&
                  std::all_of(name.begin(), name.end(), is_plain),
              "TrainingState: the name ", files::in_quotes(name),
              " is none of a file; it must have 1 to ", kMaxName,
              " letters, digits, '-', '_' and '.', and begin with no '.'");
  TORCH_CHECK((name + "-").find(".rank-") == std::string::npos, "TrainingState: the name '", name,
              "' is like that of a rank's file; it must not contain '.rank-'");
  TORCH_CHECK(name != "values", "TrainingState: the name 'values' is that of the file of numbers");
}

PartState of_text(std::string text) {
  return {{}, {{kText, std::move(text)}}, {}};
}

/// Copies the values of a state that was read.
void copy_into(const at::Tensor& target, const at::Tensor& source) {
  const at::NoGradGuard no_gradients;
  const at::Tensor values = at::detach(target);
  const auto is_plain = [](const at::Tensor& tensor) {
    return has_plain_bytes(tensor) && !tensor.is_inference();
  };
  // What an object of the program has loaded before may have made the target another one.
  const bool is_same =
      values.sizes() == source.sizes() && values.scalar_type() == source.scalar_type();
  if (!is_same || at::get_num_threads() > 1 || !is_plain(values) || !is_plain(source)) {
    values.copy_(source);  // with all threads
    return;
  }
  native::streaming_copy(values.mutable_data_ptr(), source.const_data_ptr(), source.nbytes());
  values.unsafeGetTensorImpl()->bump_version();  // as `copy_` does, for a backward under way
}

/// A copy into `target`, prepared.
std::function<void()> prepare_copy(const at::Tensor& target, at::Tensor source,
                                   const std::string& name) {
  TORCH_CHECK(source.sizes() == target.sizes() && source.scalar_type() == target.scalar_type(),
              "the checkpoint's ", files::in_quotes(name), " is ", source.scalar_type(),
              " of shape ", source.sizes(), "; this program's is ", target.scalar_type(),
              " of shape ", target.sizes());
  return [target, source = std::move(source)] { copy_into(target, source); };
}

/// Loads what rank 0 had where another number of ranks loads what each rank has of its own.
TrainingPart with_values_of_rank_0(TrainingPart part) {
  part.is_of_rank = true;
  part.adapt = [prepare = part.prepare, name = part.name](PartState of_rank_0, int rank) {
    auto load = prepare(std::move(of_rank_0));
    if (rank != 0) return load;
    return std::function<void()>([load = std::move(load), name] {
      load();
      std::string text = "'" + name;
      text += "' was saved by another number of ranks; all ranks go on with what rank 0 had";
      logging::warning(text);
    });
  };
  return part;
}

TrainingPart module_part(const std::string& name, torch::nn::Module& module) {
  const auto state = [&module] {
    PartState own{state_of(module), {}, {}};
    for (const auto& item : module.named_buffers()) own.of_rank_0.insert(item.key());
    for (const auto& item : module.named_parameters()) own.until_step.insert(item.key());
    return own;
  };
  const auto prepare = [&module, name](PartState saved) -> std::function<void()> {
    std::vector<std::function<void()>> copies;
    auto own = state_of(module);
    for (auto& [key, tensor] : own) {
      const auto found = saved.tensors.find(key);
      TORCH_CHECK(found != saved.tensors.end(), "the checkpoint's '", name, "' has no ",
                  files::in_quotes(key));
      copies.push_back(prepare_copy(tensor, std::move(found->second), name + " / " + key));
      saved.tensors.erase(found);
    }
    TORCH_CHECK(saved.tensors.empty(), "the checkpoint's '", name, "' has ",
                files::in_quotes(saved.tensors.begin()->first), ", which the module does not have");
    return [copies = std::move(copies)] {
      for (const auto& copy : copies) copy();
    };
  };
  return {name, false, false, state, prepare};
}

template <class Number>
std::string number_text(Number value) {
  std::array<char, 64> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

template <class Number>
Number number_of(const std::string& name, const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  TORCH_CHECK(error == std::errc() && end == text.data() + text.size(), "the checkpoint's '", name,
              "' is ", files::in_quotes(text), ", which is no number");
  return value;
}

}  // namespace

namespace detail {

const std::string& only_text(const PartState& state) {
  TORCH_CHECK(state.texts.size() == 1 && state.texts.contains(kText) && state.tensors.empty(),
              "a part of the checkpoint is of another kind than this program's");
  return state.texts.at(kText);
}

}  // namespace detail

TrainingState& TrainingState::add_part(TrainingPart part) {
  check_name(part.name);
  TORCH_CHECK(std::none_of(parts_.begin(), parts_.end(),
                           [&](const auto& other) { return other.name == part.name; }),
              "TrainingState: there are two parts of the name '", part.name, "'");
  parts_.push_back(std::move(part));
  return *this;
}

TrainingState& TrainingState::add(const std::string& name, torch::nn::Module& module) {
  add_part(module_part(name, module));
  modules_.emplace_back(name, &module);
  return *this;
}

TrainingState& TrainingState::add_of_rank(const std::string& name, torch::nn::Module& module) {
  add_part(with_values_of_rank_0(module_part(name, module)));
  modules_.emplace_back(name, &module);
  return *this;
}

TrainingState& TrainingState::add_object(TrainingPart part,
                                         std::function<const torch::nn::Module*()> beside) {
  part.state = [this, beside = std::move(beside), state = std::move(part.state), name = part.name] {
    const torch::nn::Module* const module = beside();
    if (module == nullptr) return state();
    const auto known = parameter_names();
    for (const auto& [parameter, own] : training::parameter_names(*module)) {
      TORCH_CHECK(known.contains(parameter), "TrainingState: '", name,
                  "' is not saved with its parameters, and its parameter ", files::in_quotes(own),
                  " is in no module of this state; add the module inside too, under another name");
    }
    return state();
  };
  return add_part(std::move(part));
}

TrainingState& TrainingState::add(const std::string& name, torch::optim::Optimizer& optimizer) {
  return add_optimizer({name, false, false, {}, {}}, optimizer);
}

TrainingState& TrainingState::add_of_rank(const std::string& name,
                                          torch::optim::Optimizer& optimizer) {
  return add_optimizer({name, true, false, {}, {}}, optimizer);
}

TrainingState& TrainingState::add_optimizer(TrainingPart part, torch::optim::Optimizer& optimizer) {
  const std::string name = part.name;
  part.state = [this, &optimizer] {
    auto [tensors, groups] = named_state_of(optimizer, parameter_names());
    std::set<std::string> all;
    for (const auto& [key, tensor] : tensors) all.insert(key);
    return PartState{std::move(tensors), {{kGroups, std::move(groups)}}, {}, std::move(all)};
  };
  part.prepare = [this, &optimizer, name](PartState saved) {
    const auto groups = saved.texts.find(kGroups);
    TORCH_CHECK(groups != saved.texts.end(), "the checkpoint's '", name,
                "' is no state of an optimizer");
    return prepare_state(optimizer, parameter_names(), {std::move(saved.tensors), groups->second},
                         StateTensors::Kept);
  };
  return add_part(part.is_of_rank ? with_values_of_rank_0(std::move(part)) : std::move(part));
}

std::map<std::string, at::Tensor> TrainingState::named_parameters() const {
  std::map<std::string, at::Tensor> parameters;
  const auto names = parameter_names();
  for (const auto& [part, module] : modules_) {
    for (const auto& parameter : module->parameters()) {
      parameters.emplace(names.at(parameter.unsafeGetTensorImpl()), parameter);
    }
  }
  return parameters;
}

std::map<const void*, std::string> TrainingState::parameter_names() const {
  std::map<const void*, std::string> names;
  for (const auto& [part, module] : modules_) {
    for (auto& [parameter, name] : training::parameter_names(*module)) {
      names.emplace(parameter, modules_.size() == 1 ? std::move(name) : part + "." + name);
    }
  }
  return names;
}

TrainingState& TrainingState::add(const std::string& name, at::Tensor& tensor) {
  return add_part({name, false, false,
                   [&tensor] {
                     return PartState{{{kTensor, tensor}}, {}, {}};
                   },
                   [&tensor, name](PartState saved) {
                     const auto found = saved.tensors.find(kTensor);
                     TORCH_CHECK(found != saved.tensors.end(), "the checkpoint's '", name,
                                 "' is no tensor");
                     return prepare_copy(tensor, std::move(found->second), name);
                   }});
}

TrainingState& TrainingState::add(const std::string& name, std::string& text) {
  return add_part({name, false, false, [&text] { return of_text(text); },
                   [&text](const PartState& saved) -> std::function<void()> {
                     return [&text, loaded = detail::only_text(saved)] { text = loaded; };
                   }});
}

TrainingState& TrainingState::add(const std::string& name, double& value) {
  // In hexadecimal, whatever it is, so that each bit comes back.
  return add_part({name, false, false,
                   [&value] {
                     return PartState{{},
                                      {{kText, number_text(std::bit_cast<std::uint64_t>(value))},
                                       {"decimal", number_text(value)}},
                                      {}};
                   },
                   [&value, name](const PartState& saved) -> std::function<void()> {
                     const auto found = saved.texts.find(kText);
                     TORCH_CHECK(found != saved.texts.end() && saved.texts.contains("decimal"),
                                 "the checkpoint's '", name, "' is no double");
                     const auto bits = number_of<std::uint64_t>(name, found->second);
                     return [&value, bits] { value = std::bit_cast<double>(bits); };
                   }});
}

TrainingState& TrainingState::add(const std::string& name, bool& value) {
  return add_integer(
      name, [&value] { return value ? 1 : 0; },
      [](std::int64_t loaded) { return loaded == 0 || loaded == 1; },
      [&value](std::int64_t loaded) { value = loaded == 1; });
}

TrainingState& TrainingState::add(const std::string& name, std::int64_t& value) {
  return add_integer(
      name, [&value] { return value; }, [](std::int64_t) { return true; },
      [&value](std::int64_t loaded) { value = loaded; });
}

TrainingState& TrainingState::add_integer(const std::string& name,
                                          std::function<std::int64_t()> get,
                                          std::function<bool(std::int64_t)> fits,
                                          std::function<void(std::int64_t)> set) {
  const auto prepare = [fits = std::move(fits), set = std::move(set),
                        name](const PartState& saved) -> std::function<void()> {
    const auto loaded = number_of<std::int64_t>(name, detail::only_text(saved));
    TORCH_CHECK(fits(loaded), "the checkpoint's '", name, "' is ", loaded,
                ", which this program's variable cannot hold");
    return [set, loaded] { set(loaded); };
  };
  return add_part({name, false, false,
                   [get = std::move(get)] { return of_text(number_text(get())); }, prepare});
}

TrainingState& TrainingState::add_random_state(const std::string& name) {
  return add_part(random_part(name));
}

TrainingState& TrainingState::require(const std::string& name, std::string value) {
  auto kept = std::make_shared<const std::string>(std::move(value));
  add_part({name, false, false, [kept] { return of_text(*kept); },
            [kept, name](const PartState& saved) -> std::function<void()> {
              const std::string& found = detail::only_text(saved);
              TORCH_CHECK(found == *kept, "the checkpoint was made with ", name, " ",
                          files::in_quotes(found), "; this run has ", files::in_quotes(*kept));
              return [] {};
            }});
  std::rotate(parts_.begin(), parts_.end() - 1, parts_.end());  // it comes first
  return *this;
}

}  // namespace lockstep::training
