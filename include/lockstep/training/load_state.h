// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace lockstep::training {

/// What `load_state` is told.
struct LoadOptions {
  /// Whether names that only the file has, or only the module, are an error.
  TORCH_ARG(bool, strict) = true;
  /// Only tensors whose names begin with it count, and what is behind it is their name. With
  /// `"backbone."`, a module takes its part of a larger model.
  TORCH_ARG(std::string, prefix);
  /// The name that the module has for a name of the file (without the prefix); an empty one: the
  /// tensor does not count. `weight_names.h` has some.
  TORCH_ARG(std::function<std::string(const std::string& name)>, rename);
};

/// What `load_state` found.
struct LOCKSTEP_API LoadedState {
  std::vector<std::string> missing;     ///< names of the module that the file does not have
  std::vector<std::string> unexpected;  ///< names of the file that the module does not have
};

/// Copies parameters and buffers from a file into `module`, in place: on their device, in their
/// dtype, so that optimizers, views and memory of a group stay as they are. `path`: as
/// `load_safetensors` takes it.
///
/// A tensor that the module has under two names (tied weights) needs one of them in the file. All
/// names, shapes and dtypes are compared before the first value is copied. As in PyTorch, a
/// fraction may become one of another width, which rounds it; other than in PyTorch, a fraction
/// never becomes an integer, nor an integer one that it may not fit into.
///
/// Blocks: while it reads.
/// Thread-safety: any thread, while no other uses the module.
/// Throws: `c10::Error` for a damaged file, for names that differ where `strict`, and for shapes or
/// dtypes that do not fit; then nothing was copied. A file that cannot be read any more while
/// values are copied leaves the module with some of them.
/// Source: `torch.nn.Module.load_state_dict`.
LOCKSTEP_API LoadedState load_state(torch::nn::Module& module, const std::filesystem::path& path,
                                    const LoadOptions& options = {});

/// For a module of `TORCH_MODULE`.
template <class Contained>
LoadedState load_state(const torch::nn::ModuleHolder<Contained>& module,
                       const std::filesystem::path& path, const LoadOptions& options = {}) {
  return load_state(*module.ptr(), path, options);
}

/// Parameters and buffers by name, as Python's `state_dict` has them. They share memory with the
/// module.
[[nodiscard]] LOCKSTEP_API std::map<std::string, at::Tensor> state_of(
    const torch::nn::Module& module);

/// Writes `state_of(module)` as `save_safetensors` does, with `{"format", "pt"}` in the metadata. A
/// tensor of several names is written once, under the first; in the metadata, the others name it.
///
/// Blocks: as `save_safetensors`.
/// Throws: as `save_safetensors`.
/// Source: `safetensors.torch.save_model`.
LOCKSTEP_API void save_state(const torch::nn::Module& module, const std::filesystem::path& path,
                             std::map<std::string, std::string> metadata = {});

/// For a module of `TORCH_MODULE`.
template <class Contained>
void save_state(const torch::nn::ModuleHolder<Contained>& module, const std::filesystem::path& path,
                std::map<std::string, std::string> metadata = {}) {
  save_state(*module, path, std::move(metadata));
}

}  // namespace lockstep::training
