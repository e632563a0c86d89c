// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace lockstep::training {

/// Saves a module's tensors as Python's `save_model` does: one that has several names once, under
/// the first of them, which the metadata has for the others.
///
/// Throws: as `save_safetensors`.
void save_with_tied(const std::filesystem::path& path, std::map<std::string, at::Tensor> tensors,
                    std::map<std::string, std::string> metadata);

}  // namespace lockstep::training
