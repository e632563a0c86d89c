// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/hooks/hook_state.h"
#include "parallel/hooks/parameter_map.h"

namespace lockstep::hooks {

/// What compression has left out of this rank's gradients so far, to be added to the next ones.
///
/// Over all ranks the mean of the errors is exactly what the averages lack, as long as all is
/// finite. The error of a parameter waits while this rank's gradient of it is all zeros: so the
/// zeros of a rank that has joined stay zeros, and a round of zeros only, whose result is dropped,
/// carries no error away.
class ErrorFeedback {
 public:
  /// Adds the parameter's error to `values`, its gradient.
  void add(const at::Tensor& parameter, const at::Tensor& values);
  /// `values`: as `add` left them; `left_out`: what of them the average does not contain, whose
  /// memory is kept. What is not finite counts as nothing, since it would stay for ever.
  void keep(const at::Tensor& parameter, const at::Tensor& left_out);
  /// Undefined where there is none yet.
  [[nodiscard]] at::Tensor of(const at::Tensor& parameter) const;

  /// Adds the errors of all parameters to a state.
  void write(HookStateWriter& writer) const;
  /// The errors that a state has.
  [[nodiscard]] static ErrorFeedback read(HookStateReader& reader,
                                          const ParametersByName& parameters);

 private:
  struct Entry {
    at::Tensor error;
    at::Tensor waits;  // 1 if `error` was not added, else 0; undefined between `keep` and `add`
  };

  ParameterMap<Entry> entries_;
};

}  // namespace lockstep::hooks
