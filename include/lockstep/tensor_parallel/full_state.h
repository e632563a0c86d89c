// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <filesystem>
#include <map>
#include <string>

/// @file
/// Weights of a model with tensor-parallel layers, as the model without them has them: full
/// tensors under the same names. A file is the same, bit for bit, whatever the number of ranks, and
/// can be loaded by any other number, by a model without these layers
/// (`lockstep::training::load_state`), or by Python.
///
/// Thread-safety: any thread, while no other uses the module or its groups.

namespace lockstep::nn {

/// All parameters and buffers by name, full, on the CPU, on every rank. Those that all ranks have
/// are compared: where they differ, training has gone wrong.
///
/// Blocks: the calling thread.
/// Collective: all ranks of the layers' groups call it.
/// Throws: `c10::Error` on every rank that names the parameters that should be the same on all
/// ranks and are not; what a collective throws.
[[nodiscard]] LOCKSTEP_API std::map<std::string, at::Tensor> full_state(
    const torch::nn::Module& module);

/// Gives all ranks of the layers' groups what the first one has of the parameters and buffers that
/// all should have alike: for ranks that began with different seeds, or whose devices have rounded
/// differently.
///
/// Blocks: the calling thread.
/// Collective: all ranks of the layers' groups call it.
/// Throws: what a collective throws.
LOCKSTEP_API void broadcast_replicated(torch::nn::Module& module);

/// Copies this rank's part of each full tensor into `module`, in place, in its dtype. Nothing is
/// communicated. A tensor that the module has under two names needs one of them.
///
/// Throws: `c10::Error` for names that only one of the two has, and for shapes or dtypes that do
/// not fit; then nothing was copied.
LOCKSTEP_API void load_full_state(torch::nn::Module& module,
                                  const std::map<std::string, at::Tensor>& state);

/// Writes what `full_state` gives to a file in the format safetensors, as
/// `lockstep::training::save_state` writes it. The first rank of the layers' group writes; the
/// others return when the file is there, or throw when it could not be written. In a mesh with
/// replicas, one replica calls it.
///
/// Blocks: the calling thread, until the file is on the disk; the other ranks wait for it no longer
/// than their group's deadline.
/// Collective: all ranks of the layers' groups call it.
/// Throws: as `full_state` and `lockstep::training::save_safetensors`, on every rank; `c10::Error`,
/// before anything is communicated, for layers that have several groups.
LOCKSTEP_API void save_full(const torch::nn::Module& module, const std::filesystem::path& path);

/// `load_full_state` of a file (or folder) that `lockstep::training::load_safetensors` reads. Each
/// rank reads its part itself, so all ranks see the file.
///
/// Blocks: while it reads.
/// Throws: as `load_full_state`, and `c10::Error` for a file that is damaged or not there.
LOCKSTEP_API void load_full(torch::nn::Module& module, const std::filesystem::path& path);

/// For a module of `TORCH_MODULE`.
template <class Contained>
[[nodiscard]] std::map<std::string, at::Tensor> full_state(
    const torch::nn::ModuleHolder<Contained>& module) {
  return full_state(static_cast<const torch::nn::Module&>(*module.ptr()));
}
/// For a module of `TORCH_MODULE`.
template <class Contained>
void broadcast_replicated(const torch::nn::ModuleHolder<Contained>& module) {
  broadcast_replicated(static_cast<torch::nn::Module&>(*module.ptr()));
}
/// For a module of `TORCH_MODULE`.
template <class Contained>
void load_full_state(const torch::nn::ModuleHolder<Contained>& module,
                     const std::map<std::string, at::Tensor>& state) {
  load_full_state(static_cast<torch::nn::Module&>(*module.ptr()), state);
}
/// For a module of `TORCH_MODULE`.
template <class Contained>
void save_full(const torch::nn::ModuleHolder<Contained>& module,
               const std::filesystem::path& path) {
  save_full(static_cast<const torch::nn::Module&>(*module.ptr()), path);
}
/// For a module of `TORCH_MODULE`.
template <class Contained>
void load_full(const torch::nn::ModuleHolder<Contained>& module,
               const std::filesystem::path& path) {
  load_full(static_cast<torch::nn::Module&>(*module.ptr()), path);
}

}  // namespace lockstep::nn
