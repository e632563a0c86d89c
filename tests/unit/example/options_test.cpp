// SPDX-License-Identifier: BSD-3-Clause
#include "options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace example {
namespace {

ParsedOptions parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "resnet");
  return parse_options(static_cast<int>(arguments.size()), arguments.data());
}

TEST(Options, HaveDefaultsThatTrainFashionMnist) {
  const auto parsed = parse({});
  ASSERT_TRUE(parsed.options.has_value());
  EXPECT_EQ(parsed.exit_code, 0);
  EXPECT_EQ(parsed.text, "");
  EXPECT_EQ(parsed.options->dataset, "fashion-mnist");
  EXPECT_EQ(parsed.options->backend, lockstep::Backend::Auto);
  EXPECT_FALSE(parsed.options->limit.has_value());
  EXPECT_FALSE(parsed.options->fail_at.has_value());
}

TEST(Options, AreRead) {
  const auto parsed =
      parse({"--dataset",    "synthetic", "--arch",       "resnet34", "--epochs",       "3",
             "--batch-size", "17",        "--workers",    "0",        "--lr",           "0.05",
             "--warmup",     "0",         "--backend",    "mpi",      "--threads",      "2",
             "--limit",      "100",       "--image-size", "32",       "--seed",         "11",
             "--fail-at",    "4",         "--fail-rank",  "1",        "--weight-decay", "0",
             "--progress",   "lines"});
  ASSERT_TRUE(parsed.options.has_value()) << parsed.text;
  const Options& options = *parsed.options;
  EXPECT_EQ(options.dataset, "synthetic");
  EXPECT_EQ(options.arch, "resnet34");
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.batch_size, 17);
  EXPECT_EQ(options.workers, 0);
  EXPECT_EQ(options.learning_rate, 0.05);
  EXPECT_EQ(options.warmup_epochs, 0);
  EXPECT_EQ(options.weight_decay, 0);
  EXPECT_EQ(options.backend, lockstep::Backend::Mpi);
  EXPECT_EQ(options.threads, 2);
  EXPECT_EQ(options.limit, 100);
  EXPECT_EQ(options.image_size, 32);
  EXPECT_EQ(options.seed, 11U);
  EXPECT_EQ(options.fail_at, 4);
  EXPECT_EQ(options.fail_rank, 1);
  EXPECT_EQ(options.progress, ProgressStyle::Lines);
}

TEST(Options, ImageFolderHasDefaultsForPhotographs) {
  const auto plain = parse({"--dataset", "image-folder", "--data", "/photographs"});
  ASSERT_TRUE(plain.options.has_value()) << plain.text;
  EXPECT_EQ(plain.options->arch, "resnet18");
  EXPECT_EQ(plain.options->image_size, 224);
  const auto chosen = parse({"--dataset", "image-folder", "--data", "/photographs", "--arch",
                             "resnet8", "--image-size", "28"});
  ASSERT_TRUE(chosen.options.has_value()) << chosen.text;
  EXPECT_EQ(chosen.options->arch, "resnet8");
  EXPECT_EQ(chosen.options->image_size, 28);
}

TEST(Options, HelpNamesEveryGroupAndDefaults) {
  const auto parsed = parse({"--help"});
  EXPECT_FALSE(parsed.options.has_value());
  EXPECT_EQ(parsed.exit_code, 0);
  for (const char* part :
       {"Data:", "Training:", "Run:", "--batch-size N=64", "--lr RATE=0.4", "resnet14"}) {
    EXPECT_NE(parsed.text.find(part), std::string::npos) << part << "\n" << parsed.text;
  }
}

struct Mistake {
  std::vector<const char*> arguments;
  const char* named;   // what the message must name
  const char* wanted;  // and what it must say about it
};

TEST(Options, AMistakeIsOneLineAndExitCodeTwo) {
  const std::vector<Mistake> mistakes = {
      {{"--batch-size", "0"}, "--batch-size", "from 1"},
      {{"--batch-size", "-3"}, "--batch-size", "from 1"},
      {{"--batch-size", "6.5"}, "--batch-size", "whole number"},
      {{"--batch-size", "99999999999999999999"}, "--batch-size", "whole number"},
      {{"--batch-size", "many"}, "--batch-size", "'many'"},
      {{"--lr", "nan"}, "--lr", "'nan'"},
      {{"--lr", "inf"}, "--lr", "'inf'"},
      {{"--lr", "0"}, "--lr", "positive"},
      {{"--lr", "-0.1"}, "--lr", "positive"},
      {{"--weight-decay", "nan"}, "--weight-decay", "'nan'"},
      {{"--momentum", "1"}, "--momentum", "below 1"},
      {{"--warmup", "-1"}, "--warmup", "zero or a positive"},
      {{"--warmup", "3", "--epochs", "2"}, "--warmup", "--epochs"},
      {{"--arch", "resnet9"}, "--arch", "resnet8, resnet14"},
      {{"--backend", "smoke-signals"}, "--backend", "shared-memory"},
      {{"--dataset", "cifar"}, "--dataset", "synthetic"},
      {{"--dataset", "image-folder"}, "--data", "must name the image folder"},
      {{"--limit", "0"}, "--limit", "from 1"},
      {{"--workers", "-1"}, "--workers", "from 0"},
      {{"--epochs"}, "--epochs", "missing"},
      {{"--colour"}, "--colour", "not expected"},
      {{"leftover"}, "leftover", "not expected"},
  };
  for (const auto& mistake : mistakes) {
    const auto parsed = parse(mistake.arguments);
    EXPECT_FALSE(parsed.options.has_value()) << mistake.named;
    EXPECT_EQ(parsed.exit_code, 2) << parsed.text;
    EXPECT_EQ(parsed.text.rfind("resnet: ", 0), 0U) << parsed.text;
    EXPECT_NE(parsed.text.find(mistake.named), std::string::npos) << parsed.text;
    EXPECT_NE(parsed.text.find(mistake.wanted), std::string::npos) << parsed.text;
    EXPECT_EQ(std::count(parsed.text.begin(), parsed.text.end(), '\n'), 1) << parsed.text;
    EXPECT_TRUE(!parsed.text.empty() && parsed.text.back() == '\n') << parsed.text;
  }
}

}  // namespace
}  // namespace example
