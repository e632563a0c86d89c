// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::inference {

/// What a member answered to a request.
///
/// Thread-safety: a value.
struct MemberOutput {
  std::size_t member = 0;  ///< its number in the ensemble, from 0
  std::string name;        ///< its name
  at::Tensor output;       ///< what it returned, on the CPU
};

/// Makes one output of what the members answered: those that did, in the order of the members,
/// which does not depend on who was first. So neither does a bit of the result.
///
/// Thread-safety: the program's own is called by `PendingAnswer::get`, perhaps in several threads
/// at a time for several requests, and may use the ensemble; those of the library in any thread of
/// the program that uses the ensemble.
class Combination {
 public:
  /// What a program's own combination is, unless it takes the tensors alone.
  using Function = std::function<at::Tensor(const std::vector<MemberOutput>&)>;

  /// A function of the program's: `at::Tensor(const std::vector<at::Tensor>&)`, or with
  /// `const std::vector<MemberOutput>&`, which also says whose they are. The tensors are its own.
  template <class F>
  requires(!std::is_same_v<std::decay_t<F>, Combination> &&
           (std::is_invocable_r_v<at::Tensor, F&, const std::vector<MemberOutput>&> ||
            std::is_invocable_r_v<at::Tensor, F&, const std::vector<at::Tensor>&>))
      /* implicit */ Combination(F function)
      : reads_in_place_(false) {
    if constexpr (std::is_invocable_r_v<at::Tensor, F&, const std::vector<MemberOutput>&>) {
      function_ = std::move(function);
    } else {
      function_ = [own = std::move(function)](const std::vector<MemberOutput>& outputs) mutable {
        std::vector<at::Tensor> tensors;
        tensors.reserve(outputs.size());
        for (const auto& output : outputs) tensors.push_back(output.output);
        return own(tensors);
      };
    }
  }

  /// A combination of the library's, which neither keeps nor returns what it is given.
  /// `members`: as many as an ensemble must have for it; 0: any.
  [[nodiscard]] static Combination in_place(Function function, std::size_t members = 0) {
    Combination combination(std::move(function));
    combination.reads_in_place_ = true;
    combination.members_ = members;
    return combination;
  }

  /// The combined output.
  /// Throws: what the function throws.
  [[nodiscard]] at::Tensor operator()(const std::vector<MemberOutput>& outputs) const {
    return function_(outputs);
  }
  /// Whether it may be given tensors that lie in memory of the ensemble.
  [[nodiscard]] bool reads_in_place() const noexcept { return reads_in_place_; }
  /// The number of members that it is for; 0: any.
  [[nodiscard]] std::size_t members() const noexcept { return members_; }

 private:
  Function function_;
  bool reads_in_place_;
  std::size_t members_ = 0;
};

/// The mean of the outputs as they are: for regression, for probabilities, and for members whose
/// scores are to be averaged. The default.
///
/// Shapes: all outputs have the same shape and dtype; so has the result. Integers become float32.
/// Throws: from the call, `c10::Error` for outputs of different shapes or dtypes.
[[nodiscard]] LOCKSTEP_API Combination mean();

/// The mean of the softmax of the outputs along `dim`: for classifiers that return scores (logits).
///
/// Shapes: as `mean`.
/// Throws: as `mean`.
[[nodiscard]] LOCKSTEP_API Combination mean_of_probabilities(std::int64_t dim = -1);

/// The class that most members have as the largest along `dim`; among those with equally many
/// votes, the one with the lowest number.
///
/// Shapes: outputs [..., classes, ...] of one shape; the result is int64 without the dimension.
/// Throws: from the call, `c10::Error` for outputs of different shapes.
[[nodiscard]] LOCKSTEP_API Combination vote(std::int64_t dim = -1);

/// The mean of the outputs with weights, one a member in their order. Without the missing ones, the
/// weights of the others count as parts of their sum.
///
/// Shapes: as `mean`.
/// Throws: `c10::Error` for weights that are negative, not finite, or all 0; from the constructor
/// of the ensemble, where its members are not as many; from the call, as `mean`, and where all
/// members that answered have 0.
[[nodiscard]] LOCKSTEP_API Combination weighted(std::vector<double> weights);

}  // namespace lockstep::inference
