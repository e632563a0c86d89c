// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <sys/mman.h>
#include <torch/torch.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::inference::testing {

using namespace std::chrono_literals;

/// Numbers that this process and the members see. Zero at first.
class SharedNumbers {
 public:
  SharedNumbers()
      : values_(static_cast<std::atomic<int>*>(
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedNumbers() { ::munmap(static_cast<void*>(values_), kBytes); }
  SharedNumbers(const SharedNumbers&) = delete;
  SharedNumbers& operator=(const SharedNumbers&) = delete;

  std::atomic<int>& operator[](std::size_t index) const { return values_[index]; }

 private:
  static constexpr std::size_t kBytes = 4096;
  std::atomic<int>* values_;
};

/// Waits for what a member or the fork server does.
template <typename Condition>
bool happens(const Condition& condition, std::chrono::seconds limit = 60s) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// Also of one that nobody has reaped.
inline bool has_ended(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return true;
  return text[text.rfind(')') + 2] == 'Z';
}

inline int parent_of(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  return std::stoi(text.substr(text.rfind(')') + 4));
}

/// A member that returns `factor * input`, exactly for small whole numbers.
inline Member times(const std::string& name, int factor) {
  return member(name, [factor] { return [factor](torch::Tensor x) { return x * factor; }; });
}

/// Stops the members that ask for it. A member that waits ends its wait when the test is over.
class Gate {
 public:
  /// For the member: waits at the gate if the first element of the input is this number.
  static constexpr int kStop = -77;

  [[nodiscard]] auto model(int factor = 1) const {
    return [numbers = numbers_, factor](torch::Tensor x) {
      if (x.numel() > 0 && x.flatten()[0].to(torch::kFloat).item<float>() == kStop) {
        (*numbers)[1].fetch_add(1);
        while ((*numbers)[0] == 0) std::this_thread::sleep_for(1ms);
      }
      (*numbers)[2].fetch_add(1);
      return x * factor;
    };
  }
  ~Gate() { open(); }
  void open() const { (*numbers_)[0] = 1; }
  [[nodiscard]] bool has_somebody() const { return (*numbers_)[1] > 0; }
  [[nodiscard]] bool waits_for_somebody() const {
    return happens([&] { return has_somebody(); });
  }
  [[nodiscard]] int calls() const { return (*numbers_)[2]; }

 private:
  std::shared_ptr<SharedNumbers> numbers_ = std::make_shared<SharedNumbers>();
};

inline torch::Tensor stopping(c10::IntArrayRef sizes = {1, 4}) {
  return torch::full(sizes, static_cast<float>(Gate::kStop));
}
inline torch::Tensor numbers(float first, c10::IntArrayRef sizes = {1, 4}) {
  const auto count = torch::ones(sizes).numel();
  return torch::arange(first, first + static_cast<float>(count)).reshape(sizes);
}

struct SmallNetImpl : torch::nn::Module {
  explicit SmallNetImpl(std::uint64_t seed) {
    torch::manual_seed(seed);
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 3, 3)));
    dropout = register_module("dropout", torch::nn::Dropout(0.5));
    linear = register_module("linear", torch::nn::Linear(3 * 6 * 6, 5));
  }
  torch::Tensor forward(torch::Tensor x) {
    return linear(dropout(torch::relu(conv(x))).flatten(1));
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Dropout dropout{nullptr};
  torch::nn::Linear linear{nullptr};
};
TORCH_MODULE(SmallNet);

/// How a request fails; its message has this part.
inline EnsembleFailure failure_of(PendingAnswer pending, const std::string& part) {
  try {
    static_cast<void>(pending.get());
  } catch (const EnsembleError& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    return error.failure();
  }
  ADD_FAILURE() << "no error; expected one with: " << part;
  return EnsembleFailure::QueueFull;
}

}  // namespace lockstep::inference::testing
