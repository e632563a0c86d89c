// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/optimizer.h>

#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::training {

/// What one part of a run knows: tensors and texts by name.
struct LOCKSTEP_API PartState {
  std::map<std::string, at::Tensor> tensors;  ///< by name
  std::map<std::string, std::string> texts;   ///< by name; UTF-8
  /// Names of tensors that may differ between ranks, as running statistics do: those of rank 0
  /// count.
  std::set<std::string> of_rank_0;
  /// Names of tensors that change in the optimizer's `step()` and nowhere else, as parameters do: a
  /// deferred save reads them in place (`Checkpointer::before_step`).
  std::set<std::string> until_step = {};
};

namespace detail {

/// A part of a `TrainingState`.
struct TrainingPart {
  std::string name;         ///< of its files
  bool is_of_rank = false;  ///< each rank has its own
  /// What loads it is the program's own, and may throw: it comes first.
  bool is_object = false;
  /// The tensors may share memory with the part.
  std::function<PartState()> state;
  /// Compares the state with the part, and changes nothing. What it returns loads the state, and
  /// may keep its tensors, which nobody else uses then.
  std::function<std::function<void()>(PartState)> prepare;
  /// Of a part of a rank: the same for another number of ranks, from the state that rank 0 had.
  /// Empty: there is no such way.
  std::function<std::function<void()>(PartState of_rank_0, int rank)> adapt = {};
};

template <class T>
concept HasBytes = requires(const T& value, const std::string& text) {
  { value.to_bytes() } -> std::convertible_to<std::string>;
  { T::from_bytes(text) } -> std::convertible_to<T>;
};

/// What `state()` may return, as a `PartState` and back.
template <class T>
PartState to_part(T state) {
  if constexpr (std::is_same_v<T, PartState>) {
    return state;
  } else if constexpr (std::is_same_v<T, std::map<std::string, at::Tensor>>) {
    return {std::move(state), {}, {}};
  } else if constexpr (std::is_convertible_v<T, std::string>) {
    return {{}, {{"state", std::move(state)}}, {}};
  } else {
    static_assert(HasBytes<T>,
                  "TrainingState::add: state() must return a PartState, a std::map of tensors, a "
                  "std::string, or a type with to_bytes() and from_bytes(text)");
    return {{}, {{"state", state.to_bytes()}}, {}};
  }
}

/// The text of a part that is one text.
LOCKSTEP_API const std::string& only_text(const PartState& state);

/// The way back.
template <class T>
T from_part(PartState state) {
  if constexpr (std::is_same_v<T, PartState>) {
    return state;
  } else if constexpr (std::is_same_v<T, std::map<std::string, at::Tensor>>) {
    return std::move(state.tensors);
  } else if constexpr (std::is_convertible_v<T, std::string>) {
    return only_text(state);
  } else {
    return T::from_bytes(only_text(state));
  }
}

template <class T>
concept Stateful = requires(T& object) {
  object.load_state(object.state());
};

/// It can also check a state before anything is loaded.
template <class T>
concept PreparesState = Stateful<T> && requires(T& object) {
  { object.prepare_state(object.state()) } -> std::convertible_to<std::function<void()>>;
};

/// Its state may differ between ranks, and it can go on with what rank 0 of another number of ranks
/// had.
template <class T>
concept AdaptsState = PreparesState<T> && requires(T& object, int rank) {
  { object.adapt_state(object.state(), rank) } -> std::convertible_to<std::function<void()>>;
};

/// An object with `state()` and `load_state(state)`.
template <Stateful T>
TrainingPart part_of(std::string name, T& object, bool is_of_rank) {
  using State = std::decay_t<decltype(object.state())>;
  TrainingPart part{std::move(name), is_of_rank || AdaptsState<T>, !PreparesState<T>,
                    [&object] { return to_part(object.state()); },
                    [&object](PartState state) -> std::function<void()> {
                      auto ready = from_part<State>(std::move(state));
                      if constexpr (PreparesState<T>) {
                        return object.prepare_state(ready);
                      } else {
                        return [&object, ready = std::move(ready)] { object.load_state(ready); };
                      }
                    }};
  if constexpr (AdaptsState<T>) {
    part.adapt = [&object](PartState of_rank_0, int rank) -> std::function<void()> {
      return object.adapt_state(from_part<State>(std::move(of_rank_0)), rank);
    };
  }
  return part;
}

/// The module of which `object` has a state without tensors, and so without its parameters; null:
/// there is none.
template <Stateful T>
const torch::nn::Module* module_beside(T& object) {
  using State = std::decay_t<decltype(object.state())>;
  if constexpr (std::is_same_v<State, PartState> ||
                std::is_same_v<State, std::map<std::string, at::Tensor>>) {
    return nullptr;
  } else if constexpr (std::is_base_of_v<torch::nn::Module, T>) {
    return &object;
  } else if constexpr (requires {
                         { *object.ptr() } -> std::convertible_to<const torch::nn::Module&>;
                       }) {
    return object.ptr().get();
  } else {
    return nullptr;
  }
}

/// An object with a state of each rank in which parameters have names, as a communication hook:
/// `state(parameters)`, `prepare_state(state, parameters)`, which checks the state and returns what
/// loads it, and `adapt_state(state, parameters, rank)`, which does the same with what rank 0 of
/// another number of ranks had.
template <class T>
concept StatefulByParameters = requires(T& object, const std::map<std::string, at::Tensor>& tensors,
                                        int rank) {
  { object.state(tensors) } -> std::convertible_to<std::map<std::string, at::Tensor>>;
  { object.prepare_state(tensors, tensors) } -> std::convertible_to<std::function<void()>>;
  { object.adapt_state(tensors, tensors, rank) } -> std::convertible_to<std::function<void()>>;
};

/// For a `static_assert` that fails only where it is reached.
template <class>
inline constexpr bool kNever = false;

}  // namespace detail

/// All that a run is, by name, for a `Checkpointer`. It refers to the parts, which must outlive it
/// and stay where they are.
///
///     lockstep::training::TrainingState state;
///     state.add("model", net).add("optimizer", optimizer).add("loader", loader)
///         .add("step", step).add_random_state();
///
/// Names are those of files, of at most 100 letters, digits, `-`, `_` and `.`, each once. What
/// `add` takes is the same on all ranks; `add_of_rank` is for what is not. All of them throw
/// `c10::Error` for a name that is none of a file's, or is there already.
///
/// Thread-safety: none.
class LOCKSTEP_API TrainingState {
 public:
  TrainingState() = default;
  TrainingState(const TrainingState&) = delete;
  TrainingState& operator=(const TrainingState&) = delete;

  /// Parameters and buffers, of which those of rank 0 are saved. Wrapped in
  /// `DistributedDataParallel`, add the module inside.
  TrainingState& add(const std::string& name, torch::nn::Module& module);
  /// One of LibTorch's optimizers. Its parameters belong to modules of this state.
  TrainingState& add(const std::string& name, torch::optim::Optimizer& optimizer);
  /// The value is copied into the tensor on loading.
  TrainingState& add(const std::string& name, at::Tensor& tensor);
  /// A text in UTF-8.
  TrainingState& add(const std::string& name, std::string& text);
  /// Every bit of it, also of no number.
  TrainingState& add(const std::string& name, double& value);
  /// A yes or no.
  TrainingState& add(const std::string& name, bool& value);
  /// A whole number.
  TrainingState& add(const std::string& name, std::int64_t& value);
  /// An integer of another width.
  template <std::integral T>
  TrainingState& add(const std::string& name, T& value) {
    return add_integer(
        name,
        [&value] {
          TORCH_CHECK(std::in_range<std::int64_t>(value), "TrainingState: ", value,
                      " is too large; a state has integers below 2^63");
          return static_cast<std::int64_t>(value);
        },
        [](std::int64_t loaded) { return std::in_range<T>(loaded); },
        [&value](std::int64_t loaded) { value = static_cast<T>(loaded); });
  }
  /// A module of `TORCH_MODULE`.
  template <class Contained>
  TrainingState& add(const std::string& name, const torch::nn::ModuleHolder<Contained>& module) {
    return add(name, static_cast<torch::nn::Module&>(*module.ptr()));
  }
  /// Whatever has `state()` and `load_state(state)`: a `DataLoader`, a scaler, a program's own. Of
  /// a `DistributedDataParallel`, this is what it has learned about its backwards; the module
  /// inside is another part, without which a save is an error. With `prepare_state(state)`, which
  /// returns what loads the state, a state that does not fit is found before anything is loaded.
  /// Where there is `adapt_state(state, rank)` too, as in `DistributedDataParallel`, each rank has
  /// a state of its own, and another number of ranks prepares what rank 0 had with that.
  template <detail::Stateful T>
  TrainingState& add(const std::string& name, T& object) {
    return add_object(detail::part_of(name, object, false),
                      [&object] { return detail::module_beside(object); });
  }
  /// The same for what each rank has of its own. It is loaded by as many ranks as have saved it.
  template <detail::Stateful T>
  TrainingState& add_of_rank(const std::string& name, T& object) {
    return add_object(detail::part_of(name, object, true),
                      [&object] { return detail::module_beside(object); });
  }
  /// A communication hook with a state: the handle that was registered with the model, or a copy.
  /// Its parameters belong to modules of this state. With another number of ranks, what is the same
  /// on all ranks is loaded, and what ranks had still to send is dropped with a warning.
  template <detail::StatefulByParameters T>
  TrainingState& add_of_rank(const std::string& name, T& hook) {
    return add_part({name, true, false,
                     [this, &hook] {
                       return PartState{hook.state(named_parameters()), {}, {}};
                     },
                     [this, &hook](const PartState& saved) -> std::function<void()> {
                       return hook.prepare_state(saved.tensors, named_parameters());
                     },
                     [this, &hook](const PartState& of_rank_0, int rank) -> std::function<void()> {
                       return hook.adapt_state(of_rank_0.tensors, named_parameters(), rank);
                     }});
  }
  /// Does not compile, and says why.
  template <detail::StatefulByParameters T>
  TrainingState& add(const std::string&, T&) {
    static_assert(detail::kNever<T>,
                  "TrainingState::add: a communication hook has a state of each rank; write "
                  "add_of_rank(name, hook)");
    return *this;
  }
  /// A module whose values differ between ranks, as with `PostLocalSgd`. Wrapped in
  /// `DistributedDataParallel`, load it after that, which makes all ranks equal. Other numbers of
  /// ranks all get what rank 0 had, with a warning.
  TrainingState& add_of_rank(const std::string& name, torch::nn::Module& module);
  /// The same for a module of `TORCH_MODULE`.
  template <class Contained>
  TrainingState& add_of_rank(const std::string& name,
                             const torch::nn::ModuleHolder<Contained>& module) {
    return add_of_rank(name, static_cast<torch::nn::Module&>(*module.ptr()));
  }
  /// The same for an optimizer, whose momentum differs between ranks then, too.
  TrainingState& add_of_rank(const std::string& name, torch::optim::Optimizer& optimizer);

  /// The default generators of the CPU and of the CUDA devices in use, those of each rank. With
  /// another number of ranks, each is seeded anew from what rank 0 had saved and its own number.
  TrainingState& add_random_state(const std::string& name = "random");

  /// What must be as it was: loading a state with another value is an error that shows both. For
  /// the settings of a run. It is looked at before all other parts.
  TrainingState& require(const std::string& name, std::string value);

  /// For a `Checkpointer`.
  [[nodiscard]] const std::vector<detail::TrainingPart>& parts() const noexcept { return parts_; }

 private:
  TrainingState& add_part(detail::TrainingPart part);
  /// `beside` gives the module whose parameters the part does not have when it is asked, or null:
  /// the program may have put another one into its variable.
  TrainingState& add_object(detail::TrainingPart part,
                            std::function<const torch::nn::Module*()> beside);
  TrainingState& add_optimizer(detail::TrainingPart part, torch::optim::Optimizer& optimizer);
  TrainingState& add_integer(const std::string& name, std::function<std::int64_t()> get,
                             std::function<bool(std::int64_t)> fits,
                             std::function<void(std::int64_t)> set);
  /// The name of each parameter of the modules: PART.NAME where there are several modules.
  [[nodiscard]] std::map<const void*, std::string> parameter_names() const;
  /// The parameters by these names.
  [[nodiscard]] std::map<std::string, at::Tensor> named_parameters() const;

  std::vector<detail::TrainingPart> parts_;
  std::vector<std::pair<std::string, torch::nn::Module*>> modules_;
};

}  // namespace lockstep::training
