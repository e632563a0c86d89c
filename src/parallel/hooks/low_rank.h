// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <lockstep/parallel/hooks/power_sgd_options.h>

#include <cstdint>
#include <string>

#include "parallel/hooks/hook_state.h"

namespace lockstep::hooks {

/// Throws: `c10::Error` naming the option and what is allowed.
void check_options(const char* hook, const PowerSgdOptions& options);

/// The options on which a step after `steps` others depends.
[[nodiscard]] OptionNumbers numbers_of(const PowerSgdOptions& options, std::uint64_t steps);

/// Whether factors of so many columns are enough smaller than the matrix.
[[nodiscard]] bool is_worth_compressing(std::int64_t rows, std::int64_t columns, std::int64_t rank,
                                        double min_compression_rate);

/// Columns of length 1 at right angles that span what those of `matrix` span, in its dtype.
///
/// A column that depends on those before it becomes zero; with `spare`, of the same shape, it and
/// one that is not finite are replaced by what is new in the spare's column. Without, what is not
/// finite stays so. Uses no random numbers, and asks a GPU for nothing.
[[nodiscard]] at::Tensor orthogonalized(const at::Tensor& matrix, double epsilon,
                                        const at::Tensor& spare = {});

/// While one lives, this thread multiplies in the dtypes that it is given: a backward may run where
/// autocast is on, which would round the factors.
class WithoutAutocast {
 private:
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

/// The factor Q with which one matrix begins each step.
class StartingFactor {
 public:
  /// The factor for a product with `matrix`. All ranks draw the same numbers in the same order.
  [[nodiscard]] at::Tensor next(const at::Tensor& matrix, std::int64_t rank,
                                const PowerSgdOptions& options, at::Generator& generator);
  /// What the step ended with, for the next one.
  /// It is copied, since it may lie in the midst of what was sent: a product's rounding can depend
  /// on where its factors lie, and a state that is loaded has memory of its own.
  void remember(const at::Tensor& factor) { last_ = factor.clone(); }

  /// Whether it is what the next step begins with; else that step draws a new one.
  [[nodiscard]] bool is_drawn() const { return random_.defined(); }
  /// Whether a step has ended with it.
  [[nodiscard]] bool is_warm() const { return last_.defined(); }
  /// Adds `random.NAME` and `q.NAME` to a state. The second has no rows until a step has ended.
  void write(HookStateWriter& writer, const std::string& name) const;
  /// The columns of the matrix for which `write` has added it; 0 where there is nothing.
  [[nodiscard]] static std::int64_t columns_in(const HookStateReader& reader,
                                               const std::string& name);
  /// What `write` has added, for a matrix of so many columns: not drawn, where there is nothing.
  [[nodiscard]] static StartingFactor read(HookStateReader& reader, const std::string& name,
                                           std::int64_t columns, std::int64_t rank,
                                           const at::Tensor& parameter);

 private:
  [[nodiscard]] bool fits(const at::Tensor& matrix, std::int64_t rank) const;

  at::Tensor random_;  // replaces columns of `last_` that became useless
  at::Tensor last_;
};

}  // namespace lockstep::hooks
