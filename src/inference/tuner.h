// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/inference/ensemble_options.h>
#include <lockstep/inference/member.h>
#include <lockstep/inference/tuning.h>

#include <vector>

namespace lockstep::inference::detail {

/// `Ensemble::tune`.
[[nodiscard]] TuneReport tune(const std::vector<Member>& members, const EnsembleOptions& ensemble,
                              const at::Tensor& sample, const TuneOptions& options);

/// The best of some settings, at least one. `longest_p99`: as in `TuneOptions`.
[[nodiscard]] TuneTrial best_of(const std::vector<TuneTrial>& trials,
                                std::chrono::nanoseconds longest_p99);

}  // namespace lockstep::inference::detail
