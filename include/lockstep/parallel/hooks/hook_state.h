// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

/// @file
/// What communication hooks with a state give to a checkpoint, and get back.
///
/// Thread-safety: values.

namespace lockstep::hooks {

/// The state of a communication hook, by name: `error.NAME` is what the rank has still to send of
/// the gradients of parameter NAME.
using HookState = std::map<std::string, at::Tensor>;

/// Parameters by their names in a checkpoint: at least those of all models that have the hook.
using ParametersByName = std::map<std::string, at::Tensor>;

}  // namespace lockstep::hooks
