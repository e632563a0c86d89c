// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/training_state.h>

#include <string>

namespace lockstep::training {

/// The default generators of this process.
[[nodiscard]] detail::TrainingPart random_part(const std::string& name);

}  // namespace lockstep::training
