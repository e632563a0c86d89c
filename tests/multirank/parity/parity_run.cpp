// SPDX-License-Identifier: BSD-3-Clause
//
// DDP against PyTorch's: same weights, same data, same numbers. tests/python/ddp_parity_driver.py
// lets PyTorch write its numbers before this program starts. This file does what a case says;
// the cases stand in the *_test.cpp beside it, in tables.
#include <lockstep/comm/init.h>
#include <lockstep/comm/local_ranks.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>

#include "multirank/parity/comparison.h"
#include "multirank/parity/parity_case.h"
#include "multirank/parity/tensor_file.h"

namespace lockstep::testing::parity {
namespace {

using Model = DistributedDataParallel<Net>;
using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

// What it takes to notice that a table was not compiled, or that a case was forgotten: cases of the
// oracle, and ways in which they are done here, on each number of ranks.
constexpr std::size_t kOracleCases = 62;
constexpr std::size_t kCases = 68;

struct Ran {
  std::set<std::string> cases;
  std::set<std::string> oracle_cases;
};

Ran& ran() {
  static Ran names;
  return names;
}

class AllCasesRan : public ::testing::Environment {
 public:
  void TearDown() override {
    if (::testing::GTEST_FLAG(filter) != "*") return;  // somebody looks at some of them
    std::ifstream stream(fixtures() / "cases");
    std::set<std::string> listed;
    for (std::string name; std::getline(stream, name);) listed.insert(name);
    EXPECT_EQ(ran().oracle_cases, listed) << "cases of C++ and of ddp_cases.py";
    EXPECT_EQ(ran().oracle_cases.size(), kOracleCases);
    EXPECT_EQ(ran().cases.size(), kCases);
  }
};

[[maybe_unused]] const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new AllCasesRan);

// What the oracle's ranks wrote about one case.
class Oracle {
 public:
  Oracle(const std::string& name, int rank, int ranks) {
    for (int other = 0; other < ranks; ++other) {
      records_.push_back(read_records(fixtures() / name / ("rank" + std::to_string(other))));
    }
    own_rank_ = static_cast<std::size_t>(rank);
  }

  [[nodiscard]] Records part(const std::string& prefix) const { return part(prefix, own_rank_); }
  [[nodiscard]] Records part(const std::string& prefix, std::size_t rank) const {
    return with_prefix(records_[rank], prefix);
  }

  /// Whether gradients of this step were written, and those of each parameter, averaged.
  [[nodiscard]] std::optional<Records> gradients(std::int64_t step) const {
    auto found = part(std::to_string(step) + "/gradient/");
    return found.empty() ? std::nullopt : std::optional(std::move(found));
  }

  /// Mean over the ranks with data of the absolute values of their own gradients.
  [[nodiscard]] std::map<std::string, torch::Tensor> own(std::int64_t step) const {
    std::map<std::string, torch::Tensor> sums;
    int active = 0;
    for (std::size_t rank = 0; rank < records_.size(); ++rank) {
      const auto gradients = part(std::to_string(step) + "/own/", rank);
      if (!gradients.empty()) ++active;
      for (const auto& [name, gradient] : gradients) {
        const auto size = gradient.values.abs();
        sums[name] = sums.contains(name) ? sums[name] + size : size;
      }
    }
    for (auto& [name, sum] : sums) sum = sum / active;
    return sums;
  }

 private:
  std::vector<Records> records_;
  std::size_t own_rank_ = 0;
};

// LibTorch's lists have a shared parameter once for each of its names; an optimizer would step it
// as often.
NamedParameters without_repetition(const Model& model) {
  NamedParameters list;
  std::set<const c10::TensorImpl*> seen;
  for (const auto& item : model->named_parameters()) {
    if (seen.insert(item.value().unsafeGetTensorImpl()).second) {
      list.emplace_back(item.key(), item.value());
    }
  }
  return list;
}

// How Lockstep is told to do the case; the numbers must not depend on it.
struct Variant {
  std::size_t bucket_cap_bytes;
  bool set_to_none;  // what zero_grad does
};

class Training {
 public:
  Training(const Case& parity_case, const Variant& variant, std::shared_ptr<ProcessGroup> group)
      : case_(parity_case),
        variant_(variant),
        group_(std::move(group)),
        oracle_(case_.oracle_name(), group_->rank(), group_->size()),
        comparison_(case_, group_->size()) {
    for (const auto& [name, tensor] : oracle_.part("data/")) {
      const bool is_whole = name == "labels" || name == "words" || name == "turn";
      data_[name] = tensor.values.to(is_whole ? torch::kLong : case_.dtype);
    }
    wrap();
  }

  void train_and_compare() {
    const std::int64_t steps = data_.begin()->second.size(0);
    const auto parameters = distinct_parameters();
    const auto optimizer = case_.optimizer.make(parameters);
    int recorded = 0;
    for (std::int64_t step = 0; step < steps; ++step) {
      (*model_)->zero_grad(variant_.set_to_none);
      backward(step);
      for (const auto& [name, parameter] : without_repetition(*model_)) keep(parameter.grad());
      if (const auto expected = oracle_.gradients(step)) {
        compare_gradients(step, *expected);
        ++recorded;
      }
      if (case_.max_norm > 0) torch::nn::utils::clip_grad_norm_(parameters, case_.max_norm);
      optimizer->step();
    }
    EXPECT_GT(recorded, 0) << "steps whose gradients were compared";
    join(*optimizer);
    compare_state();
    for (const auto& [name, parameter] : without_repetition(*model_)) keep(parameter);
    for (const auto& item : (*model_)->named_buffers()) keep(item.value());
  }

  [[nodiscard]] const Comparison& comparison() const { return comparison_; }
  /// The gradients of each step, then parameters and buffers.
  [[nodiscard]] const std::vector<torch::Tensor>& results() const { return results_; }

 private:
  void keep(const torch::Tensor& tensor) {
    if (!tensor.defined()) {
      results_.emplace_back();
    } else {
      const auto dense = tensor.is_sparse() ? tensor.to_dense() : tensor;
      results_.push_back(dense.detach().clone());
    }
  }

  void wrap() {
    const auto net = case_.net(group_->rank());
    if (case_.dtype != torch::kFloat) net->to(case_.dtype);
    load_initial(*net);
    model_ = std::make_unique<Model>(Net(net), group_,
                                     DistributedDataParallelOptions(case_.options)
                                         .bucket_cap_bytes(variant_.bucket_cap_bytes)
                                         .first_bucket_cap_bytes(variant_.bucket_cap_bytes / 2));
    if (case_.hook) (*model_)->register_communication_hook(case_.hook);
    if (variant_.bucket_cap_bytes <= 1024 &&
        group_->size() > 1) {  // alone there is nothing to send
      EXPECT_GE((*model_)->bucket_bytes().size(), 2U);
    }
  }

  // Rank 0 starts with PyTorch's weights, the others with zeros where DDP has to hand them out.
  void load_initial(NetImpl& net) {
    const torch::NoGradGuard no_grad;
    const auto initial = oracle_.part("initial/");
    const auto& ignored = case_.options.ignored_names();
    for (auto& item : net.named_parameters()) {
      auto& parameter = item.value();
      if (case_.is_channels_last && parameter.dim() == 4) {
        parameter.set_data(parameter.contiguous(torch::MemoryFormat::ChannelsLast));
      }
      const auto found = initial.find(item.key());
      if (found == initial.end()) continue;  // another name of a shared one
      const auto& values = found->second.values;
      const bool is_own = std::find(ignored.begin(), ignored.end(), item.key()) != ignored.end();
      const auto start = is_own || group_->rank() == 0 ? values : torch::zeros_like(values);
      parameter.copy_(parameter.is_complex() ? torch::view_as_complex(start) : start);
    }
  }

  [[nodiscard]] std::vector<torch::Tensor> distinct_parameters() const {
    std::vector<torch::Tensor> list;
    for (const auto& [name, parameter] : without_repetition(*model_)) list.push_back(parameter);
    return list;
  }

  [[nodiscard]] Batch batch_of(std::int64_t step, std::int64_t index) const {
    Batch batch;
    for (const auto& [name, tensor] : data_) batch[name] = tensor[step][index];
    if (case_.is_channels_last) {
      batch["inputs"] = batch["inputs"].contiguous(torch::MemoryFormat::ChannelsLast);
    }
    return batch;
  }

  void backward(std::int64_t step) {
    const std::int64_t batches = data_.begin()->second.size(1);
    for (std::int64_t index = 0; index < batches; ++index) {
      std::unique_ptr<NoSyncGuard> guard;
      if (case_.accumulates && index + 1 < batches) {
        guard.reset(new NoSyncGuard((*model_)->no_sync()));
      }
      const auto forward = [this](const Batch& batch) { return (*model_)->forward(batch); };
      case_.loss(forward, batch_of(step, index)).backward();
    }
  }

  void join(torch::optim::Optimizer& optimizer) {
    if (case_.join == Case::Join::WithoutStep) (*model_)->join();
    if (case_.join == Case::Join::WithStep) (*model_)->join([&] { optimizer.step(); });
  }

  void compare_gradients(std::int64_t step, const Records& expected) {
    const auto own = oracle_.own(step);
    if (step == 0) first_own_ = own;
    std::size_t found = 0;
    for (const auto& [name, parameter] : without_repetition(*model_)) {
      const auto& gradient = parameter.grad();
      EXPECT_EQ(gradient.defined(), expected.contains(name)) << "gradient of " << name;
      if (!gradient.defined() || !expected.contains(name)) continue;
      ++found;
      EXPECT_TRUE(gradient.is_sparse() || gradient.strides() == parameter.strides()) << name;
      const auto size = own.contains(name) ? own.at(name) : expected.at(name).values.abs();
      if (step == 0) {
        comparison_.first_gradient(name, gradient, expected.at(name), size);
      } else {
        comparison_.later_gradient(name, gradient, expected.at(name), size);
      }
    }
    EXPECT_EQ(found, expected.size()) << "gradients that were compared";
  }

  void compare_state() {
    const auto steps = std::max<std::int64_t>(10, data_.begin()->second.size(0));
    const auto initial = oracle_.part("initial/");
    const auto expected = oracle_.part("final/");
    const auto parameters = without_repetition(*model_);
    ASSERT_EQ(parameters.size(), expected.size());
    for (const auto& [name, parameter] : parameters) {
      const auto own = first_own_.find(name);
      comparison_.parameter(name, parameter, expected.at(name), initial.at(name).values,
                            own == first_own_.end() ? torch::Tensor() : own->second, steps);
    }
    // PyTorch copies the buffers of rank 0 when the next forward begins, Lockstep when backward
    // ends: after the last one, those of rank 0 are what both have agreed on.
    const bool is_broadcast = case_.options.buffer_sync() == BufferSync::Broadcast;
    const auto buffers = is_broadcast ? oracle_.part("buffer/", 0) : oracle_.part("buffer/");
    ASSERT_EQ((*model_)->named_buffers().size(), buffers.size());
    for (const auto& item : (*model_)->named_buffers()) {
      comparison_.buffer(item.key(), item.value(), buffers.at(item.key()));
    }
  }

  const Case& case_;
  Variant variant_;
  std::shared_ptr<ProcessGroup> group_;
  Oracle oracle_;
  Comparison comparison_;
  std::map<std::string, torch::Tensor> data_;
  std::map<std::string, torch::Tensor> first_own_;
  std::unique_ptr<Model> model_;
  std::vector<torch::Tensor> results_;
};

// Some rank of the job does the case once more with ranks that are its threads.
std::vector<torch::Tensor> train_in_local_ranks(const Case& parity_case, const Variant& variant,
                                                int ranks, int wanted_rank) {
  std::vector<torch::Tensor> results;
  LocalRanks local(std::vector<torch::Device>(static_cast<std::size_t>(ranks), torch::kCPU),
                   LocalRanksOptions().threads(1));
  local.run([&](const std::shared_ptr<ProcessGroup>& group, torch::Device) {
    Training training(parity_case, variant, group);
    training.train_and_compare();
    if (group->rank() == wanted_rank) results = training.results();
  });
  return results;
}

void expect_same_bits(const std::vector<torch::Tensor>& actual,
                      const std::vector<torch::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_FALSE(actual.empty());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << "result " << i;
    if (!actual[i].defined()) continue;
    EXPECT_TRUE(torch::equal(actual[i], expected[i]))
        << "result " << i << " of a rank that is a thread, and of one that is a process";
  }
}

TEST_P(DdpPythonParity, SameNumbers) {
  torch::set_num_threads(1);
  auto group = init_process_group();
  // One bucket and several; gradients that start undefined, and as zeros in the buckets.
  const bool set_to_none = GetParam().needs_undefined;
  for (const auto& variant :
       {Variant{std::size_t{25} << 20, true}, Variant{1 << 10, set_to_none}}) {
    SCOPED_TRACE("buckets of " + std::to_string(variant.bucket_cap_bytes) + " bytes, zero_grad(" +
                 (variant.set_to_none ? "true)" : "false)"));
    Training training(GetParam(), variant, group);
    training.train_and_compare();
    EXPECT_GT(training.comparison().sharp_gradients(), 0);
    RecordProperty("worst_part_of_tolerance", std::to_string(training.comparison().worst()));
    // The ranks take turns, and each compares what it alone knows: its buffers.
    const auto turn = ran().cases.size() % static_cast<std::size_t>(group->size());
    if (static_cast<std::size_t>(group->rank()) == turn) {
      expect_same_bits(train_in_local_ranks(GetParam(), variant, group->size(), group->rank()),
                       training.results());
    }
  }
  group->close();
  ran().cases.insert(GetParam().name);
  ran().oracle_cases.insert(GetParam().oracle_name());
}

}  // namespace
}  // namespace lockstep::testing::parity
