// SPDX-License-Identifier: BSD-3-Clause
//
// The C++ side of the task_pool benchmark: tasks a second of one kind. task_pool_driver.py starts
// it and reads what it prints.

#include <ATen/ops/full.h>
#include <lockstep/core/version.h>
#include <lockstep/workers/task_pool.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <ranges>
#include <stdexcept>
#include <string>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kElements = 128'000;  // 500 KiB of float

struct Settings {
  std::string variant;
  int workers = 2;
  int warmup = 100;
  int tasks = 1000;
};

void check(const at::Tensor& result, int item) {
  const auto* values = result.const_data_ptr<float>();
  const auto expected = static_cast<float>(item);
  if (result.numel() != kElements || values[0] != expected || values[kElements - 1] != expected) {
    throw std::runtime_error("the result of task " + std::to_string(item) + " is wrong");
  }
}

at::Tensor new_result(int item) {
  return at::full({kElements}, static_cast<float>(item));
}

at::Tensor result_in_place(int item) {
  auto result = lockstep::task_output({kElements});
  result.fill_(static_cast<float>(item));
  return result;
}

/// One microsecond of work.
int small_task(int item) {
  const auto end = Clock::now() + std::chrono::microseconds(1);
  while (Clock::now() < end) {
  }
  return item + 1;
}

void run_small(lockstep::TaskPool& pool, int tasks, int chunk_size) {
  int next = 0;
  for (const int value : pool.map(std::views::iota(0, tasks), &small_task, chunk_size)) {
    if (value != ++next) throw std::runtime_error("a small result is wrong");
  }
}

/// One task after another: what a round trip takes.
void run_round_trips(lockstep::TaskPool& pool, int tasks) {
  for (int item = 0; item < tasks; ++item) {
    if (pool.submit(&small_task, item).get() != item + 1) {
      throw std::runtime_error("a small result is wrong");
    }
  }
}

template <class Function>
void run_tensors(lockstep::TaskPool& pool, int tasks, Function function) {
  int next = 0;
  for (const at::Tensor& result : pool.map(std::views::iota(0, tasks), function)) {
    check(result, next++);
  }
}

/// A task gets 500 KiB.
void run_arguments(lockstep::TaskPool& pool, int tasks, bool in_place) {
  auto argument = in_place ? pool.empty({kElements}) : at::full({kElements}, 0.0F);
  argument.fill_(3);
  const auto last = [](const at::Tensor& given) {
    return given.const_data_ptr<float>()[given.numel() - 1];
  };
  auto arguments =
      std::views::iota(0, tasks) | std::views::transform([&](int) { return argument; });
  for (const float value : pool.map(arguments, last)) {
    if (value != 3) throw std::runtime_error("an argument is wrong");
  }
}

void run(lockstep::TaskPool& pool, const Settings& settings, int tasks) {
  const auto& variant = settings.variant;
  if (variant == "small") return run_small(pool, tasks, 1);
  // As large as Python chooses them: a quarter of a worker's share.
  if (variant == "small_chunks")
    return run_small(pool, tasks, std::max(1, tasks / settings.workers / 4));
  if (variant == "round_trip") return run_round_trips(pool, tasks);
  if (variant == "result") return run_tensors(pool, tasks, &new_result);
  if (variant == "result_in_place") return run_tensors(pool, tasks, &result_in_place);
  if (variant == "argument") return run_arguments(pool, tasks, false);
  if (variant == "argument_in_place") return run_arguments(pool, tasks, true);
  throw std::runtime_error("there is no variant " + variant);
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--variant") settings.variant = argv[i + 1];
    if (name == "--workers") settings.workers = std::stoi(argv[i + 1]);
    if (name == "--warmup") settings.warmup = std::stoi(argv[i + 1]);
    if (name == "--tasks") settings.tasks = std::stoi(argv[i + 1]);
  }
  return settings;
}

int measure(const Settings& settings) {
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(settings.workers));
  run(pool, settings, settings.warmup);
  const auto start = Clock::now();
  run(pool, settings, settings.tasks);
  const std::chrono::duration<double> seconds = Clock::now() - start;
  std::printf("%.3f\n", settings.tasks / seconds.count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--describe") {
    std::cout << "lockstep " << lockstep::version() << "\ntorch " << TORCH_VERSION << "\n";
    return 0;
  }
  try {
    return measure(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "task_pool: %s\n", error.what());
    return 1;
  }
}
