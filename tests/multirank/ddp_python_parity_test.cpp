// SPDX-License-Identifier: BSD-3-Clause
//
// DDP against PyTorch's: same weights, same data, same numbers. tests/python/ddp_parity_driver.py
// lets PyTorch write what it arrived at, then starts this program; tests/python/ddp_oracle.py names
// the files and has the same networks.

#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace nn = torch::nn;
using std::filesystem::path;

constexpr int64_t kSteps = 5;
constexpr int64_t kBatch = 6;
constexpr int64_t kClasses = 10;
constexpr double kLearningRate = 0.05;
constexpr double kMomentum = 0.9;
constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
// Far below any gradient here; without it a zero would have no tolerance for a denormal.
constexpr double kTiny = std::numeric_limits<float>::min();

path fixtures() {
  const char* folder = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (folder == nullptr) {
    throw std::runtime_error("LOCKSTEP_PARITY_FOLDER is not set; ctest starts this program");
  }
  return folder;
}

// Exactly as many little-endian float32 as `sizes` says, or an exception.
torch::Tensor load(const path& file, at::IntArrayRef sizes) {
  auto tensor = torch::empty(sizes, torch::kFloat32);
  const auto bytes = static_cast<std::uintmax_t>(tensor.numel()) * sizeof(float);
  if (!std::filesystem::exists(file) || std::filesystem::file_size(file) != bytes) {
    throw std::runtime_error(file.string() + " does not hold " + std::to_string(bytes) + " bytes");
  }
  std::ifstream stream(file, std::ios::binary);
  stream.read(reinterpret_cast<char*>(tensor.data_ptr<float>()),
              static_cast<std::streamsize>(bytes));
  if (!stream) throw std::runtime_error("cannot read " + file.string());
  return tensor;
}

void expect_within(const torch::Tensor& actual, const torch::Tensor& expected,
                   const torch::Tensor& tolerance, const std::string& what) {
  // Not greater would be true for NaN as well.
  const auto good = (actual - expected).abs() <= tolerance;
  if (good.all().item<bool>()) return;
  const auto where = good.flatten().logical_not().nonzero()[0].item<int64_t>();
  const auto at = [&](const torch::Tensor& t) { return t.flatten()[where].item<double>(); };
  ADD_FAILURE() << what << "[" << where << "] is " << at(actual) << ", PyTorch has " << at(expected)
                << ", tolerance " << at(tolerance) << "; "
                << good.logical_not().sum().item<int64_t>() << " of " << good.numel()
                << " elements differ";
}

nn::Sequential make_mlp() {
  return nn::Sequential(nn::Linear(20, 64), nn::Tanh(), nn::Linear(64, 48), nn::ReLU(),
                        nn::Linear(48, kClasses));
}

nn::Conv2d convolution(int64_t in, int64_t out, int64_t stride, bool bias) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(bias));
}

nn::Sequential make_convolutional() {
  return nn::Sequential(convolution(3, 8, 1, true), nn::ReLU(), convolution(8, 16, 2, true),
                        nn::ReLU(), nn::Flatten(), nn::Linear(256, kClasses));
}

nn::Sequential make_batch_norm() {
  return nn::Sequential(convolution(3, 8, 1, false), nn::BatchNorm2d(8), nn::ReLU(),
                        convolution(8, 16, 2, false), nn::BatchNorm2d(16), nn::ReLU(),
                        nn::Flatten(), nn::Linear(256, kClasses));
}

// Even ranks use `left`, odd ranks use `right`, nobody uses `never`.
struct BranchesImpl : nn::Module {
  explicit BranchesImpl(int rank) : rank_(rank) {
    register_module("left", left);
    register_module("right", right);
    register_module("never", never);
    register_module("head", head);
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return head(torch::tanh(rank_ % 2 == 0 ? left(x) : right(x)));
  }

  nn::Linear left{20, 16}, right{20, 16}, never{20, 16}, head{16, kClasses};

 private:
  int rank_;
};
TORCH_MODULE(Branches);

// One case of the oracle under one setting of Lockstep.
struct Scenario {
  std::string name;
  std::vector<int64_t> sample;
  std::size_t bucket_cap_bytes;
  bool set_to_none;  // what zero_grad does
};

// Both sides have the same local gradients g_r, bit for bit: same library, same kernels, one
// thread. They differ in the rest. PyTorch multiplies each g_r by 1/N and adds; we add and multiply
// once. With u = eps/2 either way errs by at most 2u (rounding 1/N and the product) plus (N-1)u
// (the additions) times the mean of |g_r|, so the two differ by at most (N+1) eps times it.
torch::Tensor gradient_tolerance(const torch::Tensor& magnitude, int world_size) {
  return magnitude * ((world_size + 1) * kEpsilon) + kTiny;
}

// Each step adds the difference of the gradients times at most lr / (1 - momentum), and one
// rounding of the parameter. The factor 8 covers that later gradients are taken at parameters that
// differ already, and that magnitudes change over the steps. A gradient that is wrong by a percent
// exceeds this a hundredfold.
torch::Tensor parameter_tolerance(const torch::Tensor& parameter, const torch::Tensor& magnitude,
                                  int world_size) {
  const double update = kLearningRate / (1 - kMomentum) * (world_size + 1);
  return (parameter.abs() + magnitude.max() * update) * (8 * kSteps * kEpsilon) + kTiny;
}

template <typename Net>
class Parity {
 public:
  Parity(const Scenario& scenario, std::shared_ptr<lockstep::ProcessGroup> group, const Net& net)
      : scenario_(scenario), folder_(fixtures() / scenario.name), group_(group) {
    load_initial(net);
    model_ = std::make_unique<Model>(net, group,
                                     lockstep::DistributedDataParallelOptions()
                                         .bucket_cap_bytes(scenario.bucket_cap_bytes)
                                         .first_bucket_cap_bytes(scenario.bucket_cap_bytes / 2));
  }

  [[nodiscard]] std::size_t bucket_count() const { return (*model_)->bucket_bytes().size(); }

  void train_and_compare() {
    const std::string prefix = "rank" + std::to_string(group_->rank());
    std::vector<int64_t> sizes{kSteps, kBatch};
    sizes.insert(sizes.end(), scenario_.sample.begin(), scenario_.sample.end());
    const auto inputs = load(folder_ / (prefix + ".inputs"), sizes);
    const auto labels = load(folder_ / (prefix + ".labels"), {kSteps, kBatch}).to(torch::kLong);

    torch::optim::SGD optimizer((*model_)->parameters(),
                                torch::optim::SGDOptions(kLearningRate).momentum(kMomentum));
    for (int64_t step = 0; step < kSteps; ++step) {
      optimizer.zero_grad(scenario_.set_to_none);
      auto loss = nn::functional::cross_entropy((*model_)->forward(inputs[step]), labels[step]);
      loss.backward();
      if (step == 0) compare_gradients();
      optimizer.step();
    }
    compare_parameters();
  }

 private:
  using Model = lockstep::DistributedDataParallel<Net>;

  // Rank 0 starts with PyTorch's weights, the others with zeros: DDP has to hand the weights out.
  void load_initial(const Net& net) {
    const torch::NoGradGuard no_grad;
    for (auto& item : net->named_parameters()) {
      const auto value = load(folder_ / "initial" / item.key(), item.value().sizes());
      item.value().copy_(group_->rank() == 0 ? value : torch::zeros_like(value));
    }
  }

  void compare_gradients() {
    for (const auto& item : (*model_)->named_parameters()) {
      const auto& gradient = item.value().grad();
      const auto file = folder_ / "gradients" / item.key();
      EXPECT_EQ(gradient.defined(), std::filesystem::exists(file)) << item.key();
      if (!gradient.defined() || !std::filesystem::exists(file)) continue;
      const auto magnitude = load(folder_ / "magnitudes" / item.key(), gradient.sizes());
      expect_within(gradient, load(file, gradient.sizes()),
                    gradient_tolerance(magnitude, group_->size()), "gradient of " + item.key());
    }
  }

  void compare_parameters() {
    const torch::NoGradGuard no_grad;
    for (const auto& item : (*model_)->named_parameters()) {
      const auto sizes = item.value().sizes();
      const auto expected = load(folder_ / "parameters" / item.key(), sizes);
      const auto magnitude = load(folder_ / "magnitudes" / item.key(), sizes);
      expect_within(item.value(), expected,
                    parameter_tolerance(expected, magnitude, group_->size()), item.key());
    }
  }

  Scenario scenario_;
  path folder_;
  std::shared_ptr<lockstep::ProcessGroup> group_;
  std::unique_ptr<Model> model_;
};

// Runs a case with one bucket and with several, and with both ways of zero_grad.
template <typename MakeNet>
void run_case(const std::string& name, const std::vector<int64_t>& sample, MakeNet&& make_net) {
  torch::set_num_threads(1);
  auto group = lockstep::init_process_group();
  for (const std::size_t cap : {std::size_t{25} << 20, std::size_t{1} << 10}) {
    for (const bool set_to_none : {true, false}) {
      SCOPED_TRACE(name + ", buckets of " + std::to_string(cap) + " bytes, zero_grad(" +
                   (set_to_none ? "true)" : "false)"));
      const Scenario scenario{name, sample, cap, set_to_none};
      auto net = make_net(group->rank());
      Parity parity(scenario, group, net);
      if (cap < 2048 && group->size() > 1) {  // alone there is nothing to send
        EXPECT_GE(parity.bucket_count(), 3u);
      }
      parity.train_and_compare();
    }
  }
  group->close();
}

TEST(DdpPythonParity, Mlp) {
  run_case("mlp", {20}, [](int) { return make_mlp(); });
}

TEST(DdpPythonParity, Convolutional) {
  run_case("convolutional", {3, 8, 8}, [](int) { return make_convolutional(); });
}

TEST(DdpPythonParity, BatchNorm) {
  run_case("batch_norm", {3, 8, 8}, [](int) { return make_batch_norm(); });
}

TEST(DdpPythonParity, ParametersThatSomeOrNoRanksUse) {
  run_case("branches", {20}, [](int rank) { return Branches(rank); });
}

}  // namespace
