// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about the training toolbox: metrics, run logs and progress.
// check_snippets.py compares each `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "support/raw_safetensors.h"

namespace {

namespace training = lockstep::training;

/// One rank in a folder of its own, which is removed; or the ranks of a launcher in a folder that is
/// named, so that others can look at what the snippets leave.
class TrainingToolboxPage : public ::testing::Test {
 protected:
  TrainingToolboxPage() {
    const char* kept = std::getenv("LOCKSTEP_SNIPPET_FOLDER");
    std::filesystem::current_path(kept != nullptr ? kept : folder_.path());
    group = lockstep::init_process_group(lockstep::ProcessGroupOptions().environment(
        kept != nullptr ? lockstep::LaunchEnvironment::detect() : lockstep::LaunchEnvironment()));
  }
  ~TrainingToolboxPage() override { std::filesystem::current_path("/"); }

  std::shared_ptr<lockstep::ProcessGroup> group;

 private:
  training::TemporaryFolder folder_;
};

/// Points in the plane, whose class is the sector in which they lie.
using Example = torch::data::Example<>;
struct Sectors : torch::data::Dataset<Sectors> {
  Example get(std::size_t index) override {
    const auto angle = 2.399963 * static_cast<double>(index);
    const auto radius = 0.5 + 0.5 * std::abs(std::sin(static_cast<double>(index)));
    const auto sector = static_cast<std::int64_t>(std::fmod(angle, 6.283185) / 6.283185 * 5);
    return {torch::tensor({radius * std::cos(angle), radius * std::sin(angle)}, torch::kFloat),
            torch::tensor(sector)};
  }
  torch::optional<std::size_t> size() const override { return 2000; }
};

TEST_F(TrainingToolboxPage, Metrics) {
  torch::nn::Linear net(2, 5);
  lockstep::data::DataLoader loader(
      Sectors(), lockstep::data::DistributedSampler(2000, group->size(), group->rank()),
      lockstep::data::DataLoaderOptions().batch_size(100));
  // [metrics]
  lockstep::training::Mean loss;
  lockstep::training::Accuracy top1;
  lockstep::training::Accuracy top3(3);
  lockstep::training::ConfusionMatrix confusion(5);
  lockstep::training::Auroc first_class;
  for (auto& batch : loader) {
    const auto scores = net(batch.data);
    loss.update(torch::cross_entropy_loss(scores, batch.target).item<double>(), batch.target.size(0));
    top1.update(scores, batch.target);
    top3.update(scores, batch.target);
    confusion.update(scores, batch.target);
    first_class.update(scores.softmax(1).select(1, 0), batch.target == 0);
  }
  // One all-reduce; each rank goes on with its own metrics.
  const auto [all_loss, all_top1, all_top3, all_confusion, all_first] =
      lockstep::training::reduce_metrics(*group, loss, top1, top3, confusion, first_class);
  std::cout << "loss " << all_loss.compute() << ", top-3 accuracy " << all_top3.compute()
            << ", AUROC " << all_first.compute() << " ± " << all_first.margin() << '\n'
            << all_confusion.compute() << '\n';
  // [metrics]
  EXPECT_EQ(all_top1.compute(), top1.compute());
  EXPECT_EQ(all_top1.samples(), 2000);
  group->close();
}

TEST_F(TrainingToolboxPage, TrainingLog) {
  torch::manual_seed(1);
  torch::nn::Sequential net(torch::nn::Linear(2, 64), torch::nn::ReLU(), torch::nn::Linear(64, 5));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  lockstep::DistributedDataParallel<torch::nn::Sequential> model(net, group);
  lockstep::data::DataLoader loader(
      Sectors(),
      lockstep::data::DistributedSampler(
          2000, group->size(), group->rank(),
          lockstep::data::DistributedSamplerOptions().shuffle(true)),
      lockstep::data::DataLoaderOptions().batch_size(20));
  std::int64_t step = 0;
  training::TrainingState state;
  state.add("model", net).add("step", step);
  training::Checkpointer checkpointer(group, "run/checkpoints",
                                      training::CheckpointerOptions().every_steps(100));
  // [log]
  namespace training = lockstep::training;
  const auto rank = std::to_string(group->rank());
  auto writer = std::make_shared<training::BackgroundWriter>(
      training::BackgroundWriterOptions().rotate_bytes(64 << 20));
  training::RunLog log(writer, "run/rank" + rank + ".jsonl", group->rank());
  training::PrometheusFile status(writer, "run/rank" + rank + ".prom", group->rank(),
                                  {{"job", "sectors"}});
  training::Mean loss;
  training::Accuracy accuracy;
  training::MetricSet metrics;
  metrics.add("train/loss", loss).add("train/accuracy", accuracy);
  training::Progress progress(std::cout, training::ProgressOptions()
                                             .style(training::choose_progress_style(group->rank()))
                                             .epochs(5)
                                             .steps_per_epoch(static_cast<std::int64_t>(loader.size())));
  std::map<std::string, double> values;
  for (int epoch = 0; epoch < 5; ++epoch) {
    loader.set_epoch(epoch);
    progress.begin_epoch(epoch);
    for (auto& batch : loader) {
      optimizer.zero_grad();
      const auto scores = model->forward(batch.data);
      const auto batch_loss = torch::cross_entropy_loss(scores, batch.target);
      batch_loss.backward();
      optimizer.step();
      loss.update(batch_loss.item<double>(), batch.target.size(0));
      accuracy.update(scores, batch.target);
      progress.step(batch.target.size(0) * group->size(), [&] {
        return training::ProgressValues{{"loss", loss.compute()}};
      });
      checkpointer.after_step(state, ++step);
      if (step % 10 == 0) {
        values = metrics.compute(*group);  // over all ranks, so all ranks call it
        log.write(step, values);
        log.write_statistics(step, "ddp", model->statistics());
        log.write_statistics(step, "loader", loader.statistics());
        log.write_statistics(step, "checkpoints", checkpointer.statistics());
        status.gauge("train_loss", values.at("train/loss"))
            .counter("train_steps_total", static_cast<double>(step));
        status.write();
        metrics.reset();
      }
    }
    progress.end_epoch({{"loss", values.at("train/loss")}});
  }
  // [log]
  checkpointer.wait();
  EXPECT_EQ(step, 5 * static_cast<std::int64_t>(loader.size()));
  EXPECT_TRUE(writer->flush(std::chrono::minutes(1)));
  EXPECT_TRUE(std::filesystem::exists("run/rank" + rank + ".prom"));
  const auto end = "\"step\":" + std::to_string(step) + ",\"rank\":" + rank;
  EXPECT_NE(training::read_bytes("run/rank" + rank + ".jsonl").find(end), std::string::npos);
  group->close();
}

}  // namespace
