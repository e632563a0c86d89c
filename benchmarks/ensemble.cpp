// SPDX-License-Identifier: BSD-3-Clause
//
// The C++ sides of the ensemble benchmark; ensemble_driver.py starts them and reads their figures,
// one line of JSON.

#include <lockstep/core/version.h>
#include <lockstep/inference/ensemble.h>
#include <lockstep/inference/models.h>
#include <lockstep/training/load_state.h>
#include <malloc.h>
#include <sys/mman.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "percentile.h"
#include "resnet/resnet.h"

namespace {

namespace fs = std::filesystem;
using namespace lockstep::inference;
using bench::percentile;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kFloats = 600 * 1024 / 4;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// What a copy of the input costs here, between memory that is not in the cache of another core.
double copy_us() {
  const auto from = torch::rand({kFloats});
  auto to = torch::empty({kFloats});
  std::vector<double> times;
  for (int i = 0; i < 500; ++i) {
    const auto start = Clock::now();
    std::memcpy(to.data_ptr(), from.data_ptr(), kFloats * 4);
    times.push_back(us_since(start));
  }
  return percentile(times, 0.5);
}

// The copies of a request and its answer, and nothing else: this thread writes, another one copies,
// this thread reads, and each finds the bytes in the cache of the other's core.
double copies_between_cores_us() {
  const auto input = torch::rand({kFloats});
  auto answer = torch::zeros({kFloats});
  constexpr std::size_t kBytes = kFloats * 4;
  auto* const shared = static_cast<char*>(::mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE,
                                                 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  if (shared == MAP_FAILED) throw std::runtime_error("no memory to share");
  constexpr int kTurns = 1000;
  std::atomic<int> turn{0};
  const auto wait_for = [&](int value) {
    // Where both threads have one core, each turn would cost a time slice. On free cores, the calls
    // are too few to be seen beside the copies.
    constexpr unsigned kSpins = 1000;
    for (unsigned spins = 1; turn.load(std::memory_order_acquire) != value; ++spins) {
      if (spins % kSpins == 0) std::this_thread::yield();
    }
  };
  std::thread other([&] {
    for (int i = 0; i < kTurns; ++i) {
      wait_for(2 * i + 1);
      std::memcpy(shared + kBytes, shared, kBytes);
      turn.store(2 * i + 2, std::memory_order_release);
    }
  });
  std::vector<double> times;
  for (int i = 0; i < kTurns; ++i) {
    const auto start = Clock::now();
    std::memcpy(shared, input.const_data_ptr(), kBytes);
    turn.store(2 * i + 1, std::memory_order_release);
    wait_for(2 * i + 2);
    std::memcpy(answer.mutable_data_ptr(), shared + kBytes, kBytes);
    times.push_back(us_since(start));
  }
  other.join();
  ::munmap(shared, 2 * kBytes);
  if (!torch::equal(answer, input)) throw std::runtime_error("a copy is wrong");
  return percentile(times, 0.5);
}

std::vector<double> round_trips(Ensemble& ensemble, std::int64_t floats, int requests) {
  const auto input = torch::rand({floats});
  constexpr int kWarmup = 200;
  std::vector<double> times;
  for (int i = 0; i < kWarmup + requests; ++i) {
    const auto start = Clock::now();
    const auto answer = ensemble.submit(input).get();
    if (i >= kWarmup) times.push_back(us_since(start));
    if (i % 100 == 0 && !torch::equal(answer.output, input))
      throw std::runtime_error("a wrong answer");
  }
  return times;
}

void measure_identity(int requests) {
  at::set_num_threads(1);  // threads of LibTorch's that spin here take the member's core
  Ensemble ensemble({member("same", [] { return [](torch::Tensor x) { return x; }; })});
  const auto large = round_trips(ensemble, kFloats, requests);
  const auto small = round_trips(ensemble, 1, requests);
  std::cout << "{\"p50_us\":" << percentile(large, 0.5) << ",\"p99_us\":" << percentile(large, 0.99)
            << ",\"small_p50_us\":" << percentile(small, 0.5) << ",\"copy_us\":" << copy_us()
            << ",\"copies_us\":" << copies_between_cores_us() << "}\n";
}

example::ResNet make_net(std::uint64_t seed) {
  torch::manual_seed(seed);
  example::ResNet net(example::ResNetOptions("resnet18"));
  net->eval();
  return net;
}

torch::Tensor image() {
  torch::manual_seed(1);
  return torch::rand({1, 3, 224, 224});
}

void measure_one_thread(int requests) {
  at::set_num_threads(1);
  const torch::InferenceMode guard;
  auto first = make_net(1);
  auto second = make_net(2);
  const auto input = image();
  const auto both = [&] { return (first->forward(input) + second->forward(input)) / 2; };
  static_cast<void>(both());
  const auto start = Clock::now();
  for (int i = 0; i < requests; ++i) static_cast<void>(both());
  std::cout << "{\"request_ms\":" << us_since(start) / 1000 / requests << "}\n";
}

void measure_two_members(int requests) {
  const auto input = image();
  Ensemble ensemble(
      {member("one", [] { return make_net(1); }), member("two", [] { return make_net(2); })},
      EnsembleOptions().sample(input));
  std::deque<PendingAnswer> pending;
  const auto start = Clock::now();
  for (int i = 0; i < requests; ++i) {
    if (pending.size() == 2) {
      static_cast<void>(pending.front().get());
      pending.pop_front();
    }
    pending.push_back(ensemble.submit(input));
  }
  for (auto& one : pending) static_cast<void>(one.get());
  std::cout << "{\"request_ms\":" << us_since(start) / 1000 / requests << "}\n";
}

// How long a member that was killed takes to answer again, beyond making its model and the first
// call. And whether each of many requests is answered although members are killed all the time.
void measure_kills(int requests, const fs::path& weights) {
  lockstep::training::save_state(make_net(1), weights);
  auto* load_us = static_cast<std::atomic<std::int64_t>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto load =
      from_safetensors(weights, [] { return example::ResNet(example::ResNetOptions("resnet18")); });
  const auto timed = [load, load_us]() mutable {
    const auto start = Clock::now();
    auto net = load();
    net->eval();
    const torch::InferenceMode guard;
    static_cast<void>(net->forward(torch::rand({1, 3, 32, 32})));
    *load_us = static_cast<std::int64_t>(us_since(start));
    return net;
  };
  std::vector<double> beyond;
  std::vector<double> loads;
  {
    Ensemble ensemble({member("net", timed)},
                      EnsembleOptions()
                          .restart_pause(std::chrono::milliseconds(1))
                          .longest_restart_pause(std::chrono::milliseconds(1)));
    const auto input = torch::rand({1, 3, 32, 32});
    for (int round = 0; round < 7; ++round) {
      static_cast<void>(ensemble.submit(input).get());
      const auto start = Clock::now();
      ::kill(ensemble.statistics().members[0].pids[0], SIGKILL);
      static_cast<void>(ensemble.submit(input).get());
      const double total = us_since(start) / 1000;
      loads.push_back(static_cast<double>(*load_us) / 1000);
      beyond.push_back(total - loads.back());
    }
  }
  const auto doubling = [] { return [](torch::Tensor x) { return x * 2; }; };
  Ensemble ensemble({member("a", doubling).copies(2), member("b", doubling)},
                    EnsembleOptions()
                        .quorum(1)
                        .restart_pause(std::chrono::milliseconds(1))
                        .longest_restart_pause(std::chrono::milliseconds(1)));
  std::atomic<bool> is_over{false};
  std::thread killer([&] {
    std::mt19937 random(1);
    while (!is_over) {
      const auto statistics = ensemble.statistics();
      const auto& pids = statistics.members[random() % 2].pids;
      ::kill(pids[random() % pids.size()], SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 20));
    }
  });
  int answered = 0;
  int errors = 0;
  for (int i = 0; i < requests; ++i) {
    const auto input = torch::full({1, 64}, static_cast<float>(i));
    try {
      if (torch::equal(ensemble.submit(input).get().output, input * 2)) ++answered;
    } catch (const EnsembleError& error) {
      if (error.failure() == EnsembleFailure::Poison) ++errors;  // any other one is a loss
    }
  }
  is_over = true;
  killer.join();
  std::cout << "{\"restart_ms\":" << percentile(beyond, 0.5)
            << ",\"load_ms\":" << percentile(loads, 0.5) << ",\"answered\":" << answered
            << ",\"errors\":" << errors << ",\"lost\":" << requests - answered - errors << "}\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::string variant;
    fs::path weights;
    int requests = 0;
    for (int i = 1; i < argc; ++i) {
      const std::string name = argv[i];
      if (name == "--describe") {
        std::cout << "lockstep " << lockstep::version() << "\ntorch " << TORCH_VERSION << "\n";
        return EXIT_SUCCESS;
      }
      if (++i == argc) throw std::invalid_argument(name + " needs a value");
      if (name == "--variant") variant = argv[i];
      if (name == "--requests") requests = std::stoi(argv[i]);
      if (name == "--weights") weights = argv[i];
    }
    // As a server would: answers of 600 KiB go back to the system and are faulted in again
    // otherwise.
    ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
    ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
    if (requests < 1) throw std::invalid_argument("--requests must be at least 1");
    if (variant == "identity") {
      measure_identity(requests);
    } else if (variant == "one_thread") {
      measure_one_thread(requests);
    } else if (variant == "two_members") {
      measure_two_members(requests);
    } else if (variant == "kills") {
      measure_kills(requests, weights);
    } else {
      throw std::invalid_argument("there is no variant " + variant);
    }
  } catch (const std::exception& error) {
    std::cerr << "ensemble: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
