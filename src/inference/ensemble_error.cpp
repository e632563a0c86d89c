// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/inference/ensemble_error.h>

#include <utility>

namespace lockstep::inference {

EnsembleError::EnsembleError(EnsembleFailure failure, const std::string& text,
                             std::vector<std::string> missing)
    : c10::DistError(text), failure_(failure), missing_(std::move(missing)) {}

QueueFull::QueueFull(const std::string& text) : EnsembleError(EnsembleFailure::QueueFull, text) {}

}  // namespace lockstep::inference
