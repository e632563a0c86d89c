// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <lockstep/parallel/hooks/hook_state.h>

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lockstep::hooks {

/// What an error of a parameter is called in a state, before the parameter's name.
inline constexpr const char* kErrorPrefix = "error.";
/// The number of backwards, in a state.
inline constexpr const char* kSteps = "steps";

/// Options as numbers, with their names.
using OptionNumbers = std::vector<std::pair<const char*, double>>;

/// Collects a hook's state by the names of parameters.
class HookStateWriter {
 public:
  HookStateWriter(const char* hook, const ParametersByName& parameters);

  /// Throws: `c10::Error` for a parameter that has no name.
  [[nodiscard]] const std::string& name_of(const c10::TensorImpl* parameter) const;
  /// Throws: `c10::Error` for a name that is there already.
  void add(const std::string& name, const at::Tensor& tensor);
  /// Adds the kind of the hook, and the options on which its next steps depend.
  void add_options(const OptionNumbers& options);
  void add_count(const std::string& name, std::uint64_t count);
  void add_generator(const at::Generator& generator);
  [[nodiscard]] HookState take() { return std::move(state_); }

 private:
  const char* hook_;
  std::unordered_map<const c10::TensorImpl*, std::string> names_;
  HookState state_;
};

/// Reads a hook's state, and checks it. What it gives is copied.
/// Throws: `c10::Error` naming the hook, the parameter or entry, and what would be right.
class HookStateReader {
 public:
  HookStateReader(const char* hook, const HookState& state) : hook_(hook), rest_(state) {}

  [[nodiscard]] const char* hook() const noexcept { return hook_; }
  /// This entry; undefined where there is none.
  [[nodiscard]] at::Tensor look_at(const std::string& name) const;
  /// Takes this entry; undefined where there is none.
  [[nodiscard]] at::Tensor take(const std::string& name);
  /// Does the same for one that must be there.
  [[nodiscard]] at::Tensor need(const std::string& name);
  /// Takes what `add_options` has added. Throws: `c10::Error` for another hook's or other options.
  void need_options(const OptionNumbers& own);
  [[nodiscard]] std::uint64_t need_count(const std::string& name);
  [[nodiscard]] at::Generator need_generator();
  /// Takes an entry of Float or Double in this shape, on the device of `parameter`; undefined where
  /// there is none.
  [[nodiscard]] at::Tensor take_values(const std::string& name, at::IntArrayRef sizes,
                                       const at::Tensor& parameter);
  /// All entries have been taken.
  void finish() const;

 private:
  const char* hook_;
  HookState rest_;
};

/// The state that rank 0 of another number of ranks had, without its errors. What loads it calls
/// `load`, and says on rank 0 what was dropped.
[[nodiscard]] HookState without_errors(const HookState& of_rank_0);
[[nodiscard]] std::function<void()> with_warning(const char* hook, std::function<void()> load,
                                                 const HookState& of_rank_0, int rank);

/// A text for a state that is one number: "PostLocalSgd 12".
[[nodiscard]] std::string counter_text(const char* kind, std::uint64_t count);
/// The way back. Throws: `c10::Error` for a text that `counter_text` has not made for this kind.
[[nodiscard]] std::uint64_t counter_of(const char* kind, const std::string& text);

}  // namespace lockstep::hooks
