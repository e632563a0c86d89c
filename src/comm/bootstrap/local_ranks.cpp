// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <lockstep/comm/init.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/core/error.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <utility>

#include "comm/bootstrap/rank_threads.h"
#include "comm/group/group_core.h"
#include "core/exception_text.h"
#include "core/thread_generator.h"
#include "native/posix/usable_cores.h"

namespace lockstep {
namespace {

int ranks_on(const std::vector<c10::Device>& devices) {
  return static_cast<int>(devices.size());
}

void check_ranks(const std::vector<c10::Device>& devices, const LocalRanksOptions& options) {
  TORCH_CHECK(!devices.empty(), "LocalRanks: there are no devices; give one for each rank");
  for (const c10::Device& device : devices) {
    if (device.is_cpu()) continue;
    const auto* const guard = c10::impl::hasDeviceGuardImpl(device.type())
                                  ? c10::impl::getDeviceGuardImpl(device.type())
                                  : nullptr;
    const int seen = guard == nullptr ? 0 : static_cast<int>(guard->deviceCount());
    TORCH_CHECK(device.has_index(), "LocalRanks: device ", device,
                " has no index; say which one, as in torch::Device(torch::kCUDA, 0)");
    TORCH_CHECK(device.index() < seen, "LocalRanks: device ", device,
                " is not there; LibTorch sees ", seen, " of its kind");
  }
  TORCH_CHECK(options.threads() >= 0, "LocalRanks: ", options.threads(),
              " threads a rank; it takes 1 or more, or 0 for the cores divided by the ranks");
  TORCH_CHECK(options.timeout().count() > 0, "LocalRanks: the timeout is ",
              options.timeout().count(), " ms; it must be positive");
}

/// The ranks of different objects, and of different processes, must not meet.
std::string new_job_id() {
  std::random_device random;
  std::string id = "local ranks ";
  id += std::to_string(::getpid());
  for (int i = 0; i < 2; ++i) {
    id += ' ';
    id += std::to_string(random());
  }
  return id;
}

Backend backend_for(const std::vector<c10::Device>& devices, Backend wanted) {
  if (wanted != Backend::Auto) return wanted;
  const bool are_gpus =
      std::all_of(devices.begin(), devices.end(), [](const auto& d) { return d.is_cuda(); });
  // Auto looks for the GPUs of the launch, and these ranks may use the CPU beside them.
  if (are_gpus) return Backend::Auto;
  return devices.size() == 1 ? Backend::Single : Backend::SharedMemory;
}

/// LibTorch has one CPU, which a device with an index would not be equal to.
std::vector<c10::Device> normalized(std::vector<c10::Device> devices) {
  for (c10::Device& device : devices) {
    if (device.is_cpu()) device = c10::Device(c10::kCPU);
  }
  return devices;
}

/// What the ranks draw from on the CPU. Without a seed, the first one has the process's generator:
/// one rank alone has the numbers of a program without ranks.
std::vector<at::Generator> cpu_generators(int ranks, const LocalRanksOptions& options) {
  const at::Generator& process = at::detail::getDefaultCPUGenerator();
  const std::uint64_t first = options.seed().value_or(process.current_seed());
  std::vector<at::Generator> generators;
  for (int rank = 0; rank < ranks; ++rank) {
    const bool is_process = rank == 0 && !options.seed();
    generators.push_back(
        is_process ? process
                   : at::detail::createCPUGenerator(first + static_cast<std::uint64_t>(rank)));
  }
  return generators;
}

/// Ranks that share a GPU share its generator, which begins as that of the lowest of them.
void seed_gpus(const std::vector<c10::Device>& devices, std::uint64_t seed) {
  for (auto device = devices.begin(); device != devices.end(); ++device, ++seed) {
    if (device->is_cpu() || std::find(devices.begin(), device, *device) != device) continue;
    at::Generator generator = at::globalContext().defaultGenerator(*device);
    const std::lock_guard lock(generator.mutex());
    generator.set_current_seed(seed);
  }
}

bool is_usable(const std::shared_ptr<ProcessGroup>& group) {
  if (!group || group->is_closed()) return false;
  try {
    group->core().throw_failure();
    return true;
  } catch (...) {
    return false;
  }
}

bool is_loss_of_another(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PeerLostError&) {
    return true;
  } catch (...) {
    return false;
  }
}

/// Throws an `Error` with this text where `error` is just that, and not of a type derived from it.
template <typename Error>
void throw_as(const std::exception& error, const std::string& text) {
  if (typeid(error) == typeid(Error)) throw Error(text);
}

[[noreturn]] void rethrow_from_rank(const std::exception_ptr& error, int rank, int ranks) {
  std::string place = "rank ";
  place += std::to_string(rank);
  place += " of ";
  place += std::to_string(ranks);
  try {
    std::rethrow_exception(error);
  } catch (CommError&) {  // says it
    throw;
  } catch (c10::Error& caught) {
    caught.add_context("in " + place);
    throw;
  } catch (const std::exception& caught) {
    const std::string text = place + ": " + caught.what();
    throw_as<std::runtime_error>(caught, text);
    throw_as<std::logic_error>(caught, text);
    throw_as<std::invalid_argument>(caught, text);
    throw_as<std::out_of_range>(caught, text);
    throw_as<std::domain_error>(caught, text);
    throw_as<std::length_error>(caught, text);
    throw_as<std::range_error>(caught, text);
    throw_as<std::overflow_error>(caught, text);
    throw_as<std::underflow_error>(caught, text);
    throw;
  }
}

/// Says that a `run` is under way, until it ends.
class RunScope {
 public:
  explicit RunScope(std::atomic<bool>& is_running) : is_running_(is_running) {
    TORCH_CHECK(
        !is_running_.exchange(true),
        "LocalRanks: run or close was called while a run of the same object is under way, by "
        "one of its ranks or by another thread");
  }
  ~RunScope() { is_running_.store(false); }
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;

 private:
  std::atomic<bool>& is_running_;
};

}  // namespace

struct LocalRanks::State {
  State(std::vector<c10::Device> all, const LocalRanksOptions& given)
      : devices(std::move(all)),
        options(given),
        groups(devices.size()),
        errors(devices.size()),
        threads(ranks_on(devices)) {}

  /// Outside of the ranks' threads. Generators begin at the process's seed of the first use.
  void make_generators() {
    if (generators.empty()) generators = cpu_generators(ranks_on(devices), options);
  }
  /// In rank `rank`'s thread, once.
  void prepare(int rank, int operator_threads);
  /// In rank `rank`'s thread. Collective where groups are made.
  void run(int rank, const Body& body, bool makes_groups);
  void fail(int rank, const std::exception_ptr& error);
  [[nodiscard]] LaunchEnvironment environment(int rank) const;
  [[noreturn]] void rethrow();

  std::vector<c10::Device> devices;
  LocalRanksOptions options;
  std::vector<at::Generator> generators;  // of each rank, on the CPU; empty before the first use
  std::string job_id;
  std::vector<std::shared_ptr<ProcessGroup>> groups;
  std::atomic<bool> is_running{false};
  std::optional<int> failed_rank;
  std::mutex mutex;                        // guards the next two, while ranks run
  std::vector<std::exception_ptr> errors;  // of each rank, in this run
  std::vector<int> failed;                 // the ranks that threw, in that order
  RankThreads threads;                     // ends first
};

void LocalRanks::State::prepare(int rank, int operator_threads) {
  // One thread at a time: in a fork, LibTorch makes a thread pool anew without a lock of its own.
  const std::lock_guard lock(mutex);
  // Asking LibTorch for the number of threads of a new thread sets it to that of the process, once.
  static_cast<void>(at::get_num_threads());
  at::set_num_threads(operator_threads);
  const c10::Device device = devices[static_cast<std::size_t>(rank)];
  if (device.is_cpu()) return;
  c10::impl::getDeviceGuardImpl(device.type())->setDevice(device);
}

LaunchEnvironment LocalRanks::State::environment(int rank) const {
  LaunchEnvironment environment;
  environment.rank = rank;
  environment.world_size = environment.local_size = ranks_on(devices);
  // On GPUs it is the device's number, by which groups find out whether ranks share a GPU.
  const c10::Device device = devices[static_cast<std::size_t>(rank)];
  environment.local_rank = device.is_cpu() ? rank : device.index();
  environment.launcher = Launcher::Custom;
  environment.job_id = job_id;
  return environment;
}

void LocalRanks::State::run(int rank, const Body& body, bool makes_groups) {
  const auto index = static_cast<std::size_t>(rank);
  try {
    if (makes_groups) {
      groups[index].reset();
      groups[index] = init_process_group(ProcessGroupOptions()
                                             .backend(backend_for(devices, options.backend()))
                                             .timeout(options.timeout())
                                             .environment(environment(rank)));
    }
    body(groups[index], devices[index]);
  } catch (...) {
    fail(rank, std::current_exception());
  }
}

void LocalRanks::State::fail(int rank, const std::exception_ptr& error) {
  const auto index = static_cast<std::size_t>(rank);
  {
    const std::lock_guard lock(mutex);
    errors[index] = error;
    failed.push_back(rank);
  }
  if (!groups[index]) return;
  // The others learn of it in their next call, or in the one in which they wait. Whoever else holds
  // the group keeps what has failed.
  groups[index]->core().give_up("it left LocalRanks::run with an error: " +
                                    exception_text(error, "an exception of an unknown type"),
                                "run");
}

void LocalRanks::State::rethrow() {
  const auto error_of = [&](int rank) { return errors[static_cast<std::size_t>(rank)]; };
  // A rank's groups may go before its error has come to `fail`, so that others fail first.
  const auto cause = std::find_if(failed.begin(), failed.end(),
                                  [&](int rank) { return !is_loss_of_another(error_of(rank)); });
  failed_rank = cause == failed.end() ? failed.front() : *cause;
  rethrow_from_rank(error_of(*failed_rank), *failed_rank, ranks_on(devices));
}

LocalRanks::LocalRanks(std::vector<c10::Device> devices, const LocalRanksOptions& options) {
  check_ranks(devices, options);
  state_ = std::make_unique<State>(normalized(std::move(devices)), options);
  redirect_draws();
  const int operator_threads =
      options.threads() > 0 ? options.threads() : std::max(1, native::usable_cores() / size());
  const int before = at::get_num_threads();
  state_->threads.run([&](int rank) {
    try {
      state_->prepare(rank, operator_threads);
    } catch (...) {
      state_->fail(rank, std::current_exception());
    }
  });
  // A thread's own number also becomes the one with which later threads of the process begin.
  at::set_num_threads(before);
  if (!state_->failed.empty()) state_->rethrow();
  if (options.seed()) seed_gpus(state_->devices, *options.seed());
}

LocalRanks::~LocalRanks() = default;

void LocalRanks::run_in_ranks(const Body& body) {
  TORCH_CHECK(
      state_->threads.are_there(),
      "LocalRanks: this process is a fork of the one that made these ranks, and has none of "
      "their threads; make a LocalRanks of its own");
  const RunScope scope(state_->is_running);
  state_->make_generators();
  state_->failed_rank.reset();
  state_->failed.clear();
  std::fill(state_->errors.begin(), state_->errors.end(), nullptr);
  const bool makes_groups = !std::all_of(state_->groups.begin(), state_->groups.end(), is_usable);
  if (makes_groups) state_->job_id = new_job_id();
  at::ThreadLocalState ambient;
  ambient.set_multithreading_enabled(false);
  const bool has_cache = at::autocast::is_autocast_cache_enabled();
  state_->threads.run([&](int rank) {
    const at::ThreadLocalStateGuard guard(ambient);
    at::autocast::set_autocast_cache_enabled(has_cache);
    const at::Generator& own = state_->generators[static_cast<std::size_t>(rank)];
    const ThreadGenerator drawing([&own] { return &own; });
    state_->run(rank, body, makes_groups);
  });
  if (!state_->failed.empty()) state_->rethrow();
}

void LocalRanks::close() {
  const bool are_open = std::all_of(state_->groups.begin(), state_->groups.end(), is_usable);
  if (!are_open) return;
  run_in_ranks([](const std::shared_ptr<ProcessGroup>& group, c10::Device) { group->close(); });
}

int LocalRanks::size() const noexcept {
  return ranks_on(state_->devices);
}

const std::vector<c10::Device>& LocalRanks::devices() const noexcept {
  return state_->devices;
}

std::optional<int> LocalRanks::failed_rank() const noexcept {
  return state_->failed_rank;
}

at::Generator LocalRanks::generator(int rank) const {
  TORCH_CHECK(rank >= 0 && rank < size(), "LocalRanks::generator: rank is ", rank,
              "; these ranks are 0 to ", size() - 1);
  const auto index = static_cast<std::size_t>(rank);
  const c10::Device device = state_->devices[index];
  state_->make_generators();
  return device.is_cpu() ? state_->generators[index] : at::globalContext().defaultGenerator(device);
}

}  // namespace lockstep
