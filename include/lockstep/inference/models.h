// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/inference/detail/model_call.h>
#include <lockstep/training/load_state.h>
#include <torch/arg.h>

#include <filesystem>
#include <functional>
#include <string>
#include <utility>

/// @file
/// Factories of members whose models lie in files.
///
/// Thread-safety: a factory may be called by several threads.

namespace lockstep::inference {

/// A factory for `member`: `make()`, a `TORCH_MODULE` or a pointer to a module, with parameters and
/// buffers from files in the format safetensors. `path` and `options`: as `training::load_state`
/// takes them.
/// Throws: from the factory, as `training::load_state`.
template <class Make>
[[nodiscard]] auto from_safetensors(std::filesystem::path path, Make make,
                                    training::LoadOptions options = {}) {
  return [path = std::move(path), make = std::move(make), options = std::move(options)]() {
    auto own = make;  // a copy, so that `make` may change itself
    auto module = own();
    training::load_state(
        *[&] {
          if constexpr (requires { module.ptr(); }) {
            return module.ptr();
          } else {
            return &*module;
          }
        }(),
        path, options);
    return module;
  };
}

/// What `from_package` is told.
struct LOCKSTEP_API PackageOptions {
  /// Name of the model in the package.
  TORCH_ARG(std::string, model) = "model";
  /// The GPU on which a package for GPUs computes; -1: the current one.
  TORCH_ARG(int, device_index) = -1;
};

/// A factory for `member`: a model of one input and one output that Python has compiled by
/// `torch._inductor.aoti_compile_and_package`. Such a package is a program, which runs with the
/// rights of the process: load only packages that you trust.
///
/// Throws: from the factory, `c10::Error` naming the file, if it is no package or was made for
/// another machine; from the model, `c10::Error` unless it returns one tensor.
/// Source: `torch::inductor::AOTIModelPackageLoader`.
[[nodiscard]] LOCKSTEP_API std::function<detail::Call()> from_package(
    const std::filesystem::path& path, const PackageOptions& options = {});

}  // namespace lockstep::inference
