// SPDX-License-Identifier: BSD-3-Clause
// Decodes a dataset once and stores its samples as they are, for PackedRecords:
//   pack_dataset cifar10 FOLDER train|test FILE
//   pack_dataset cifar100 FOLDER train|test FILE
//   pack_dataset idx IMAGES LABELS FILE
#include <lockstep/data/readers/cifar_dataset.h>
#include <lockstep/data/readers/idx_dataset.h>
#include <lockstep/data/readers/packed_records.h>
#include <torch/torch.h>

#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

namespace {

using lockstep::data::CifarDataset;
using lockstep::data::CifarDatasetOptions;

constexpr int kUsage = 2;

// Images stay uint8 where the dataset can leave them: a quarter of the bytes.
std::size_t pack_all(const std::vector<std::string>& words) {
  const auto& kind = words[0];
  const auto& file = words[3];
  if (kind == "idx") {
    return lockstep::data::pack(lockstep::data::IdxDataset(words[1], words[2]), file);
  }
  const bool train = words[2] == "train";
  const auto raw = CifarDatasetOptions().raw(true);
  return lockstep::data::pack(kind == "cifar10" ? CifarDataset::cifar10(words[1], train, raw)
                                                : CifarDataset::cifar100(words[1], train, raw),
                              file);
}

bool is_known(const std::vector<std::string>& words) {
  if (words.size() != 4) return false;
  if (words[0] == "idx") return true;
  const bool is_cifar = words[0] == "cifar10" || words[0] == "cifar100";
  return is_cifar && (words[2] == "train" || words[2] == "test");
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (!is_known(words)) {
    std::cerr << "usage: pack_dataset cifar10|cifar100 FOLDER train|test FILE\n"
                 "       pack_dataset idx IMAGES LABELS FILE\n";
    return kUsage;
  }
  try {
    const auto count = pack_all(words);
    const lockstep::data::PackedRecords packed(words[3]);
    const auto sample = packed.get(0);
    std::cout << "packed " << count << " samples into " << words[3] << ": data "
              << sample.data.scalar_type() << ' ' << sample.data.sizes() << ", target "
              << sample.target.scalar_type() << ' ' << sample.target.sizes() << '\n';
  } catch (const c10::Error& error) {
    std::cerr << "pack_dataset: " << error.what_without_backtrace() << '\n';
    return 1;
  }
}
