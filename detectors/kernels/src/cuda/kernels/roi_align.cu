// roi_align
