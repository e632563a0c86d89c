// SPDX-License-Identifier: BSD-3-Clause
// The programs of docs/ensembles.md. They run as a test.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <filesystem>
#include <iostream>

namespace ensembles_page {
namespace {

struct NetImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) { return x; }
};
TORCH_MODULE(Net);

torch::nn::Sequential load_a() {
  return torch::nn::Sequential(torch::nn::Linear(8, 3));
}
std::shared_ptr<torch::nn::LinearImpl> load_b() {
  return std::make_shared<torch::nn::LinearImpl>(8, 3);
}

TEST(EnsemblesPage, Submit) {
  const auto image = torch::rand({1, 8});
  // [submit]
  lockstep::inference::Ensemble ensemble(
      {lockstep::inference::member("a", [] { return load_a(); }).threads(1),
       lockstep::inference::member("b", [] { return load_b(); }).threads(1).copies(2)},
      lockstep::inference::EnsembleOptions()
          .combine(lockstep::inference::mean_of_probabilities())
          .quorum(1)
          .deadline(std::chrono::seconds(5))
          .sample(torch::zeros({1, 8})));
  auto answer = ensemble.submit(image).get();
  std::cout << answer.output.argmax(1) << '\n';
  for (std::size_t at = 0; at < answer.missing.size(); ++at) {
    std::cout << answer.missing[at] << ' ' << answer.reasons[at] << '\n';
  }
  // [submit]
  EXPECT_EQ(answer.output.size(1), 3);
  EXPECT_TRUE(answer.missing.empty());
  // [watching]
  const auto statistics = ensemble.statistics();
  for (const auto& one : statistics.members) {
    std::cout << one.name << ": p50 " << one.latency.p50.count() << " ns, p99 " << one.latency.p99.count()
              << " ns, restarts " << one.restarts << ", queue " << one.queue << '\n';
  }
  const auto report = ensemble.tune(image, lockstep::inference::TuneOptions().cores(2).duration(std::chrono::milliseconds(50)));
  std::cout << report.best.copies << " copies, " << report.best.threads << " threads, batches of " << report.best.max_batch << '\n';
  // [watching]
  EXPECT_EQ(statistics.members.size(), 2U);
  EXPECT_EQ(report.trials.size(), 9U);
}

TEST(EnsemblesPage, Models) {
  // [models]
  using lockstep::inference::from_package;
  using lockstep::inference::from_safetensors;
  const auto trained = lockstep::inference::member("trained", from_safetensors("a.safetensors", [] { return Net(); }));
  const auto compiled = lockstep::inference::member("compiled", from_package("model.pt2"));
  // [models]
  EXPECT_EQ(trained.name(), "trained");
  EXPECT_EQ(compiled.copies(), 1);
}

TEST(EnsemblesPage, Batching) {
  // [batching]
  lockstep::inference::Ensemble batching(
      {lockstep::inference::member("a", [] { return load_a(); })},
      lockstep::inference::EnsembleOptions()
          .max_batch(16)
          .max_delay(std::chrono::milliseconds(2))
          .queue(128)
          .when_full(lockstep::inference::WhenFull::Wait));
  // [batching]
  EXPECT_EQ(batching.submit(torch::rand({2, 8})).get().output.size(0), 2);
}

}  // namespace
}  // namespace ensembles_page
