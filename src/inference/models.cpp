// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/inference/models.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <system_error>

#include "native/posix/neighbour_library.h"

namespace lockstep::inference {
namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

std::shared_ptr<Loader> load_package(const std::filesystem::path& path,
                                     const PackageOptions& options) {
  std::error_code error;
  TORCH_CHECK(std::filesystem::is_regular_file(path, error), "from_package: there is no file ",
              path.string());
  // Packages name libtorch.so, which a program need not have linked, and do not say where it lies.
  const bool has_libtorch =
      native::load_neighbour_library("aoti_torch_device_type_cpu", "libtorch.so");
  const char* const hint =
      has_libtorch
          ? ""
          : " (LibTorch's libtorch.so cannot be loaded here; "
            "packages made with the option aot_inductor.link_libtorch=False do not need it)";
  // Two constructors at once race for a static of LibTorch 2.11.
  static std::mutex constructing;
  const std::lock_guard lock(constructing);
  try {
    // One runner: a copy calls its model from one thread.
    return std::make_shared<Loader>(path.string(), options.model(), /*run_single_threaded=*/false,
                                    /*num_runners=*/1,
                                    static_cast<c10::DeviceIndex>(options.device_index()));
  } catch (const c10::Error& failure) {
    TORCH_CHECK(false, "from_package: ", path.string(), " cannot be loaded as model '",
                options.model(), "': ", failure.what_without_backtrace(), hint);
  } catch (const std::exception& failure) {
    TORCH_CHECK(false, "from_package: ", path.string(), " cannot be loaded as model '",
                options.model(), "': ", failure.what(), hint);
  }
}

}  // namespace

std::function<detail::Call()> from_package(const std::filesystem::path& path,
                                           const PackageOptions& options) {
  return [path, options]() -> detail::Call {
    return [loader = load_package(path, options)](const at::Tensor& input) {
      auto outputs = loader->run({input});
      TORCH_CHECK(outputs.size() == 1, "the model of the package returned ", outputs.size(),
                  " tensors; it must return one");
      return outputs.front();
    };
  };
}

}  // namespace lockstep::inference
