// SPDX-License-Identifier: BSD-3-Clause
// Every call of the system by which tensors are saved and loaded fails once.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "support/failing_file_system.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/folder.h"
#include "training/checkpoint/generation_reader.h"
#include "training/checkpoint/generation_writer.h"
#include "training/safetensors/file.h"
#include "training/safetensors/file_writer.h"

namespace lockstep::training {
namespace {

using testing::FailingFileSystem;
using Tensors = std::map<std::string, torch::Tensor>;

const Tensors& old_tensors() {
  static const Tensors tensors{{"a", torch::zeros({100})}};
  return tensors;
}
const Tensors& new_tensors() {
  static const Tensors tensors{{"a", torch::ones({100})}, {"b", torch::ones({3}, torch::kByte)}};
  return tensors;
}

std::size_t files_in(const TemporaryFolder& folder) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

class FailingCalls : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Errors, FailingCalls, ::testing::Values(ENOSPC, EIO, EINTR, 0),
                         [](const auto& test) {
                           return test.param == ENOSPC  ? std::string("ENOSPC")
                                  : test.param == EIO   ? std::string("EIO")
                                  : test.param == EINTR ? std::string("EINTR")
                                                        : std::string("OneByte");
                         });

TEST_P(FailingCalls, ASaveLeavesTheOldFileOrTheNewOne) {
  for (int call = 0;; ++call) {
    const TemporaryFolder folder;
    const std::string path = folder / "a";
    save_safetensors(path, old_tensors());
    FailingFileSystem files(call, GetParam());
    bool has_thrown = false;
    try {
      write_file(path, plan_file(new_tensors(), {}, 8), files);
    } catch (const c10::Error& error) {
      has_thrown = true;
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
    if (!files.has_failed()) {
      EXPECT_GT(call, 6) << "calls were not counted";
      EXPECT_FALSE(has_thrown);
      return;
    }
    if (GetParam() == 0) {
      EXPECT_FALSE(has_thrown) << call;
    }
    const auto found = load_safetensors(path);
    const bool is_new = found.size() == 2;
    EXPECT_TRUE(found.at("a").equal((is_new ? new_tensors() : old_tensors()).at("a"))) << call;
    EXPECT_TRUE(is_new || has_thrown) << call;
    EXPECT_EQ(files_in(folder), 1U) << call;
  }
}

TEST_P(FailingCalls, ALoadIsWholeOrAnError) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  save_safetensors(path, new_tensors());
  for (int call = 0;; ++call) {
    FailingFileSystem files(call, GetParam());
    bool has_thrown = false;
    try {
      const SafetensorsFile file(path, files);
      for (const auto& [name, tensor] : new_tensors()) {
        EXPECT_TRUE(file.read(name).equal(tensor)) << call;
      }
    } catch (const c10::Error& error) {
      has_thrown = true;
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
    if (!files.has_failed()) {
      EXPECT_GT(call, 4) << "calls were not counted";
      return;
    }
    // A read that was interrupted, or got less, goes on.
    if (GetParam() == 0 || (GetParam() == EINTR && call > 1)) {
      EXPECT_FALSE(has_thrown) << call;
    }
    if (GetParam() == EIO) {
      EXPECT_TRUE(has_thrown) << call;
    }
  }
}

void save_checkpoint(const CheckpointFolder& folder, std::int64_t generation,
                     const Tensors& tensors) {
  GenerationWriter::Job job;
  job.run = "0123456789abcdef";
  job.generation = job.step = generation;
  job.timeout = std::chrono::seconds(60);
  job.snapshot.files["data.safetensors"].tensors = tensors;
  const std::atomic<bool> is_over{false};
  GenerationWriter writer(folder, std::move(job), is_over);
  writer.write_files();
  static_cast<void>(writer.commit());
}

/// Whether it threw.
bool try_to_save(const std::filesystem::path& path, native::FileSystem& files) {
  try {
    CheckpointFolder folder(path, files);
    folder.open_for_writing();
    save_checkpoint(folder, 2, new_tensors());
    return false;
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    return true;
  }
}

TEST_P(FailingCalls, ACheckpointIsWholeOrTheOneBeforeCounts) {
  for (int call = 0;; ++call) {
    const TemporaryFolder root;
    {
      CheckpointFolder folder(root.path());
      folder.open_for_writing();
      save_checkpoint(folder, 1, old_tensors());
    }
    FailingFileSystem files(call, GetParam());
    const bool has_thrown = try_to_save(root.path(), files);
    const CheckpointFolder folder(root.path());
    const auto counting = folder.candidates();
    ASSERT_FALSE(counting.empty()) << call;
    const auto& newest = counting.back();
    EXPECT_NO_THROW(GenerationReader(folder, newest, 0, 1).verify({})) << call;
    const bool is_new = newest.generation == 2;
    const auto found = load_safetensors(folder.generation(newest.generation) / "data.safetensors");
    EXPECT_TRUE(found.at("a").equal((is_new ? new_tensors() : old_tensors()).at("a"))) << call;
    EXPECT_TRUE(is_new || has_thrown) << call;
    if (GetParam() == 0) {
      EXPECT_FALSE(has_thrown) << call;
    }
    if (!files.has_failed()) {
      EXPECT_GT(call, 20) << "calls were not counted";
      return;
    }
  }
}

/// Says that the file is as long as it was, and reads it as it is.
class ShrinkingFileSystem final : public native::FileSystem {
 public:
  int examine(int file, struct stat& info) override {
    const int result = FileSystem::examine(file, info);
    info.st_size += 8;
    return result;
  }
};

TEST(SafetensorsReader, AFileThatIsMadeShorterWhileItIsReadIsAnError) {
  const TemporaryFolder folder;
  // Its header promises eight bytes more than there are.
  write_bytes(folder / "a",
              raw_safetensors(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", "x"));
  ShrinkingFileSystem files;
  const SafetensorsFile file((folder / "a").string(), files);
  try {
    static_cast<void>(file.read("a"));
    ADD_FAILURE() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("found the end of the file"), std::string::npos)
        << error.what();
  }
  SafetensorsFile mapped((folder / "a").string(), files);
  EXPECT_THROW(static_cast<void>(mapped.map("a")), c10::Error);
}

}  // namespace
}  // namespace lockstep::training
