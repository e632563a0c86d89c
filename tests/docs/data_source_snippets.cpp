// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about samplers and readers. check_snippets.py compares each `// [name]`
// part with the page.
#include <gtest/gtest.h>
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/readers/cifar_dataset.h>
#include <lockstep/data/readers/packed_records.h>
#include <lockstep/data/readers/tar_shards.h>
#include <lockstep/data/readers/token_file.h>
#include <lockstep/data/samplers/distributed_sampler.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samplers/stratified_sampler.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "support/tar_test_support.h"

namespace {

struct World {
  int size() const { return 2; }
  int rank() const { return 1; }
};

void use(const std::vector<std::int64_t>& batch) {
  EXPECT_FALSE(batch.empty());
}

TEST(SamplerPage, Samples) {
  const auto group = std::make_shared<World>();
  // [sampler]
  lockstep::data::DistributedSampler sampler(60000, group->size(), group->rank(),
      lockstep::data::DistributedSamplerOptions()
          .seed(7)
          .order(lockstep::data::ShuffleOrder::Keyed));
  sampler.set_epoch(3);
  const auto first = sampler.index(0);           // any position at once; indices() has all of them
  // [sampler]
  EXPECT_LT(first, 60000);

  // [weights]
  const std::vector<double> weights{1, 1, 1, 5};    // one for each sample of the dataset
  lockstep::data::WeightedRandomSampler by_weight(weights, group->size(), group->rank(),
      lockstep::data::WeightedRandomSamplerOptions().num_samples(1000).seed(7));
  // [weights]
  EXPECT_EQ(by_weight.size(), 500U);

  const std::vector<std::int64_t> labels{0, 0, 0, 1};
  // [classes]
  lockstep::data::StratifiedSampler by_class(labels, group->size(), group->rank(),
      lockstep::data::StratifiedSamplerOptions()
          .window(512)                           // batches of 64 on 8 ranks; stays 512 on 4 ranks
          .balance(lockstep::data::ClassBalance::Balanced));
  // [classes]
  EXPECT_EQ(by_class.size(), 2U);

  const std::vector<std::int64_t> lengths{5, 9, 1, 100, 20};
  // [lengths]
  lockstep::data::LengthBucketSampler buckets(lengths, group->size(), group->rank(),
      lockstep::data::LengthBucketSamplerOptions().batch_size(32).max_elements(16384));
  for (std::size_t i = 0; i < buckets.size(); ++i) use(buckets.batch(i));
  // [lengths]

  const std::size_t samples_of_this_rank = 1000;
  // [state]
  const lockstep::data::LoaderState state{sampler.seed(), sampler.epoch(),
                                          sampler.global_position(samples_of_this_rank),
                                          sampler.dataset_size(), sampler.fingerprint()};
  const std::string saved = state.to_bytes();    // one line of 107 characters, with a checksum

  // ... another day, another number of ranks
  const auto found = lockstep::data::LoaderState::from_bytes(saved);
  lockstep::data::DistributedSampler other(found.dataset_size, 1, 0,
      lockstep::data::DistributedSamplerOptions()
          .seed(found.seed)
          .order(lockstep::data::ShuffleOrder::Keyed));
  TORCH_CHECK(other.fingerprint() == found.fingerprint, "the state is of another order");
  other.set_epoch(found.epoch);
  other.start_at(found.position);
  // [state]
  EXPECT_EQ(saved.size(), 107U);
  EXPECT_EQ(other.size(), 58000U);
  EXPECT_EQ(other.index(1), sampler.index(samples_of_this_rank));
}

TEST(SamplerPage, DrawsForASample) {
  const std::int64_t epoch = 2;
  // [random]
  lockstep::data::SampleRandom random(7, epoch, 123);
  const bool is_flipped = random.bernoulli(0.5);
  const auto left = random.below(9);             // 0 to 8
  // [random]
  EXPECT_TRUE(is_flipped || !is_flipped);
  EXPECT_LT(left, 9);
}

TEST(ReaderPage, Reads) {
  std::string pattern = (std::filesystem::temp_directory_path() / "page-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const std::string folder = pattern;
  const auto write = [&](const std::string& name, const lockstep::data::ByteVector& bytes) {
    std::ofstream(folder + "/" + name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  };
  for (int i = 1; i <= 5; ++i) {
    write("data_batch_" + std::to_string(i) + ".bin", lockstep::data::ByteVector(3073, 3));
  }
  using lockstep::data::tar_member;
  const auto archive =
      lockstep::data::tar_of({tar_member("1.raw", "abc"), tar_member("1.cls", "7")});
  write("train-0000.tar", archive);
  write("train-0001.tar", archive);
  lockstep::data::ByteVector llmc;
  for (const auto value : {20240520U, 1U, 9U}) {
    lockstep::data::append(llmc, lockstep::data::little(value, 4));
  }
  llmc.resize(1024 + 18);
  write("train.bin", llmc);

  // [cifar]
  const auto train = lockstep::data::CifarDataset::cifar10(folder, true,
      lockstep::data::CifarDatasetOptions()
          .mean({0.4914, 0.4822, 0.4465})
          .std({0.2470, 0.2435, 0.2616}));
  // [cifar]
  EXPECT_EQ(train.size(), 5U);

  // [tar]
  const lockstep::data::TarShards shards({folder + "/train-0000.tar", folder + "/train-0001.tar"},
      [](const lockstep::data::TarSample& sample) -> torch::data::Example<> {
        const auto pixels = sample.at("raw");    // bytes in the mapped archive: no copy yet
        auto data = torch::empty({static_cast<std::int64_t>(pixels.size())}, torch::kByte);
        std::copy(pixels.begin(), pixels.end(), static_cast<std::byte*>(data.mutable_data_ptr()));
        return {data, torch::tensor(static_cast<std::int64_t>(sample.at("cls")[0]) - '0')};
      });
  // [tar]
  EXPECT_EQ(shards.get(1).target.item<std::int64_t>(), 7);

  // [packed]
  lockstep::data::pack(train, folder + "/train.packed");      // any map-style dataset
  const lockstep::data::PackedRecords packed(folder + "/train.packed");
  // [packed]
  EXPECT_TRUE(torch::equal(packed.get(4).data, train.get(4).data));

  // [tokens]
  const lockstep::data::TokenFile tokens(folder + "/train.bin",
      lockstep::data::TokenFileOptions().block(4).vocabulary(50257));
  // [tokens]
  EXPECT_EQ(tokens.size(), 2U);
  std::filesystem::remove_all(folder);
}

}  // namespace
