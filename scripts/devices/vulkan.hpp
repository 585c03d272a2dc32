// Vulkan's headers before 1.3.272 (Debian 12 has 1.3.239) lack what ggml names of layer settings. It is used with the validation layer
// only; the numbers are those of the registry (VK_EXT_layer_settings).
#pragma once
#include "ggml-vulkan-types.h"
#if VK_HEADER_VERSION < 272
#include <vector>
namespace vk {
enum class LayerSettingTypeEXT { eBool32 = 0 };
struct LayerSettingEXT {
    const char *        pLayerName;
    const char *        pSettingName;
    LayerSettingTypeEXT type;
    uint32_t            valueCount;
    const void *        pValues;
};
struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(uint32_t(settings.size())), pSettings(settings.data()) {}
    VkStructureType         sType = VkStructureType(1000496000);
    const void *            pNext = nullptr;
    uint32_t                settingCount;
    const LayerSettingEXT * pSettings;
};
} // namespace vk
#endif
