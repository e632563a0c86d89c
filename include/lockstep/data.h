// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// What a program needs to read data: datasets, samplers, `DataLoader` and images. It needs no
/// process group. `<lockstep/lockstep.h>` has this and the rest.

#include <lockstep/core/error.h>
#include <lockstep/core/version.h>
#include <lockstep/data/collate.h>
#include <lockstep/data/dataset.h>
#include <lockstep/data/images/image_folder.h>
#include <lockstep/data/images/image_pipeline.h>
#include <lockstep/data/images/mixup.h>
#include <lockstep/data/images/transforms.h>
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/dataset_registry.h>
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/data/loader/worker_error.h>
#include <lockstep/data/readers/cifar_dataset.h>
#include <lockstep/data/readers/idx_dataset.h>
#include <lockstep/data/readers/packed_records.h>
#include <lockstep/data/readers/tar_shards.h>
#include <lockstep/data/readers/token_file.h>
#include <lockstep/data/sample_codec.h>
#include <lockstep/data/sampler.h>
#include <lockstep/data/samplers/batch_sampler.h>
#include <lockstep/data/samplers/distributed_sampler.h>
#include <lockstep/data/samplers/epoch_sampler.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>
#include <lockstep/data/samplers/random_sampler.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/stratified_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>
#include <lockstep/data/samples/sample_tree.h>
