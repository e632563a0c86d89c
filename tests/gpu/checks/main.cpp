// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of one check of tests/gpu/run.sh:
//
//   gpu_checks CHECK [--cpu] [--backend NAME] [--mode NAME] [--folder PATH]
//
// Prints figures, one a line, and an error in one line. Exit status: 0 passed, 1 failed, 2 wrong
// arguments.
#include <ATen/DeviceAccelerator.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <lockstep/comm/init.h>
#include <lockstep/core/version.h>
#include <torch/version.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <map>

#include "checks.h"

namespace gpu {
namespace {

const std::map<std::string, std::function<void(const Settings&)>>& checks() {
  static const std::map<std::string, std::function<void(const Settings&)>> all{
      {"describe", describe}, {"one_rank", one_rank}, {"collectives", collectives},
      {"ddp", ddp},           {"fault", fault},       {"overlap", overlap},
      {"graphed", graphed},   {"pinned", pinned},     {"resnet50", resnet50},
      {"growth", growth},
  };
  return all;
}

const std::map<std::string, lockstep::Backend>& backends() {
  static const std::map<std::string, lockstep::Backend> all{
      {"auto", lockstep::Backend::Auto},
      {"gloo", lockstep::Backend::Gloo},
      {"nccl", lockstep::Backend::Nccl},
      {"shared_memory", lockstep::Backend::SharedMemory},
  };
  return all;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 2; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--cpu") {
      settings.is_cpu = true;
      continue;
    }
    require(i + 1 < argc, "no value behind " + option);
    const std::string value = argv[++i];
    if (option == "--backend") {
      require(backends().count(value) == 1, "there is no backend " + value);
      settings.backend = backends().at(value);
    } else if (option == "--mode") {
      settings.mode = value;
    } else if (option == "--folder") {
      settings.folder = value;
    } else {
      throw CheckFailed("there is no option " + option);
    }
  }
  return settings;
}

int run(const std::string& check, const Settings& settings) {
  try {
    torch::manual_seed(1);
    require(settings.is_cpu || torch::cuda::is_available(), "LibTorch finds no GPU");
    checks().at(check)(settings);
    return 0;
  } catch (const c10::Error& error) {
    std::printf("error %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::printf("error %s\n", error.what());
  }
  return 1;
}

/// That of the library which the process has found; another one may have been put before it.
std::string nccl_version() {
  using GetVersion = int (*)(int*);
  const auto get = reinterpret_cast<GetVersion>(::dlsym(RTLD_DEFAULT, "ncclGetVersion"));
  int version = 0;
  if (get == nullptr || get(&version) != 0) return "none";
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

void figure(const std::string& name, const std::string& value) {
  std::printf("figure %s=%s\n", name.c_str(), value.c_str());
  std::fflush(stdout);
}

void figure(const std::string& name, double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.6g", value);
  figure(name, std::string(text));
}

std::shared_ptr<lockstep::ProcessGroup> make_group(const Settings& settings,
                                                   std::chrono::milliseconds timeout,
                                                   bool check_calls) {
  return lockstep::init_process_group(lockstep::ProcessGroupOptions()
                                          .backend(settings.backend)
                                          .timeout(timeout)
                                          .check_calls(check_calls));
}

void synchronize(const Settings& settings) {
  if (!settings.is_cpu) torch::cuda::synchronize();
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

bool is_equal_on_all_ranks(lockstep::ProcessGroup& group, const at::Tensor& tensor) {
  const auto own = tensor.detach().contiguous().view(-1);
  auto sizes = own.sizes().vec();
  sizes.insert(sizes.begin(), group.size());
  const auto all = torch::empty(sizes, own.options());
  group.all_gather(all, own).wait();
  return torch::equal(all, own.expand_as(all));
}

DeviceMemory memory_of(const Settings& settings) {
  if (settings.is_cpu) return {};
  const auto stats = at::accelerator::getDeviceStats(0);
  const auto sum = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto [free, total] = at::accelerator::getMemoryInfo(0);
  static_cast<void>(total);
  return {stats.allocated_bytes[sum].current, stats.reserved_bytes[sum].current,
          static_cast<std::int64_t>(free)};
}

void describe(const Settings& settings) {
  figure("lockstep", std::string(lockstep::version()));
  figure("torch", TORCH_VERSION);
  figure("gpus", settings.is_cpu ? 0 : static_cast<double>(torch::cuda::device_count()));
  figure("nccl", nccl_version());
}

}  // namespace gpu

int main(int argc, char** argv) {
  std::string text = argc < 2 ? "" : argv[1];
  if (gpu::checks().count(text) == 0) {
    std::fprintf(stderr, "usage: gpu_checks CHECK [--cpu] [--backend B] [--mode M] [--folder F]\n");
    for (const auto& [name, check] : gpu::checks()) std::fprintf(stderr, "  %s\n", name.c_str());
    return 2;
  }
  gpu::Settings settings;
  try {
    settings = gpu::parse(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_checks: %s\n", error.what());
    return 2;
  }
  return gpu::run(text, settings);
}
